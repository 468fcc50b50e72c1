package migrate

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// options are the flags of go-mmproxy, of path-network's version 2.1 and of kzemek's
// version 2.3, which adds the last two.
type options struct {
	protocol   string
	listen     string
	to4, to6   string // "" if not given
	subnets    string // the path of its allow list; "" trusts every peer
	mark       uint
	verbose    int
	listeners  uint
	closeAfter uint // seconds
	dynamic    bool // to the destination that the header names
	tproxy     bool // listens with IP_TRANSPARENT
}

// The backends of go-mmproxy if it is given none.
const default4, default6 = "127.0.0.1:443", "[::1]:443"

// parse parses the arguments of go-mmproxy with the package that go-mmproxy uses, so
// that the same forms are accepted.
func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("go-mmproxy", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.protocol, "p", "tcp", "")
	f.StringVar(&o.listen, "l", "0.0.0.0:8443", "")
	f.StringVar(&o.to4, "4", "", "")
	f.StringVar(&o.to6, "6", "", "")
	f.StringVar(&o.subnets, "allowed-subnets", "", "")
	f.UintVar(&o.mark, "mark", 0, "")
	f.IntVar(&o.verbose, "v", 0, "")
	f.UintVar(&o.listeners, "listeners", 1, "")
	f.UintVar(&o.closeAfter, "close-after", 60, "")
	f.BoolVar(&o.dynamic, "dynamic-destination", false, "")
	f.BoolVar(&o.tproxy, "listen-transparent", false, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %.64q", f.Arg(0))
	}
	return o, o.validate()
}

// validate checks what go-mmproxy checks, and reports every problem.
func (o *options) validate() error {
	var errs []error
	if o.protocol != "tcp" && o.protocol != "udp" {
		errs = append(errs, fmt.Errorf("-p %.64q is not tcp or udp", o.protocol))
	}
	// Its version 2.3 resolves names, and takes an empty host for every address.
	if strings.HasPrefix(o.listen, ":") {
		o.listen = "[::]" + o.listen
	}
	errs = append(errs, isAddress("-l", o.listen, func(netip.Addr) bool { return true }, "HOST:PORT"))
	if o.to4 != "" {
		errs = append(errs, isAddress("-4", o.to4, netip.Addr.Is4, "an IPv4 address with a port"))
	}
	if o.to6 != "" {
		errs = append(errs, isAddress("-6", o.to6, netip.Addr.Is6, "an IPv6 address with a port"))
	}
	return errors.Join(errs...)
}

func isAddress(flag, text string, family func(netip.Addr) bool, wanted string) error {
	a, err := netip.ParseAddrPort(text)
	if err != nil || !family(a.Addr()) {
		return fmt.Errorf("%s %.64q is not %s", flag, text, wanted)
	}
	return nil
}

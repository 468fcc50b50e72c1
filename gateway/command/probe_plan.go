package command

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/datagram"
	"unproxy/gateway/proxyproto"
)

// probePlan is what one probe does.
type probePlan struct {
	network, address string // as net.Dial takes them
	kind             headerKind
	// client and destination go into the header; one that is invalid was not
	// given and follows from the connection.
	client, destination netip.AddrPort
	tlvs                []proxyproto.TLV
	checksum            bool
	split               int // bytes in a piece of the header; 0 is one piece
	payload             []byte
	halfClose           bool
	timeout             time.Duration
	count               int

	// quiet is how long an answer has to pause to be taken as complete, and
	// pause lies between the pieces of a header.
	quiet, pause time.Duration
}

// headerKind is the header that a probe sends.
type headerKind uint8

const (
	headerV2 headerKind = iota
	headerV2Local
	headerV2Unspec
	headerV1
	headerV1Unknown
	headerSimple
	headerNone
)

// Flags of the two sides of probe; count and udp belong to both.
var (
	connectFlags = []string{"to", "as", "dst", "v1", "v2", "local", "unknown", "no-header", "tlv", "crc", "split", "send", "send-file", "half-close", "timeout", "spp"}
	listenFlags  = []string{"listen", "once", "banner"}
)

// probeConflicts are flags that cannot be given together.
var probeConflicts = [][]string{
	{"v1", "v2", "local", "no-header"},
	{"v1", "tlv"}, {"v1", "crc"}, {"v2", "no-header"},
	{"local", "unknown", "as"}, {"local", "dst"}, {"unknown", "dst"},
	{"no-header", "as"}, {"no-header", "dst"}, {"no-header", "unknown"},
	{"no-header", "tlv"}, {"no-header", "crc"}, {"no-header", "split"},
	{"send", "send-file"},
	{"udp", "v1"}, {"udp", "split"}, {"udp", "half-close"},
	{"spp", "v2", "local", "unknown", "no-header"}, {"spp", "v1"}, {"spp", "tlv"}, {"spp", "crc"},
}

// isGiven reports whether a flag is given, and is not a switch turned off.
func isGiven(c *cli.Context, name string) bool { return c.IsSet(name) && c.Value(name) != false }

// newProbePlan reads the flags, and finds all that is wrong with them.
func newProbePlan(c *cli.Context) (*probePlan, error) {
	problems := misplaced(c, listenFlags, "goes with --listen only")
	if !c.IsSet("to") {
		problems = append(problems, usage.Errorf("probe: --to is missing").WithHint("probe --to HOST:PORT connects to a gateway, probe --listen HOST:PORT is a backend"))
	}
	problems = append(problems, conflicts(c)...)
	plan := &probePlan{
		kind: kindOf(c), checksum: c.Bool("crc"), halfClose: c.Bool("half-close"),
		split: c.Int("split"), timeout: c.Duration("timeout"), count: max(1, c.Int("count")),
		quiet: 250 * time.Millisecond, pause: 10 * time.Millisecond,
	}
	note := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	for _, name := range []string{"split", "count"} {
		if c.IsSet(name) && c.Int(name) < 1 {
			note(usage.Errorf("probe: --%s %d: at least 1", name, c.Int(name)))
		}
	}
	if plan.timeout <= 0 {
		note(usage.Errorf("probe: --timeout %v: must be more than 0", plan.timeout))
	}
	var err error
	plan.network, plan.address, err = probeEndpoint(c, "to")
	note(err)
	if c.Bool("spp") && !c.Bool("udp") {
		note(usage.Errorf("probe: --spp is for UDP").WithHint("add --udp"))
	}
	plan.client, err = headerEnd("as", c.String("as"), 4711)
	note(err)
	plan.destination, err = headerEnd("dst", c.String("dst"), 443)
	note(err)
	plan.tlvs, err = parseTLVs(c.StringSlice("tlv"))
	note(err)
	plan.payload, err = probePayload(c)
	note(err)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if _, _, err := plan.header(netip.AddrPort{}); err != nil {
		return nil, usage.Errorf("%s", "probe: "+err.Error())
	}
	return plan, nil
}

// misplaced returns a problem for each of names that is given.
func misplaced(c *cli.Context, names []string, why string) []error {
	var problems []error
	for _, name := range names {
		if c.IsSet(name) {
			problems = append(problems, usage.Errorf("probe: --%s %s", name, why))
		}
	}
	return problems
}

func conflicts(c *cli.Context) []error {
	var problems []error
	for _, names := range probeConflicts {
		given := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !isGiven(c, name) })
		if len(given) > 1 {
			problems = append(problems, usage.Errorf("%s", "probe: --"+strings.Join(given, " and --")+" exclude each other").WithHint("give one of them"))
		}
	}
	return problems
}

func kindOf(c *cli.Context) headerKind {
	switch {
	case c.Bool("no-header"):
		return headerNone
	case c.Bool("v1") && c.Bool("unknown"):
		return headerV1Unknown
	case c.Bool("v1"):
		return headerV1
	case c.Bool("local"):
		return headerV2Local
	case c.Bool("unknown"):
		return headerV2Unspec
	case c.Bool("spp"):
		return headerSimple
	}
	return headerV2
}

// probeEndpoint reads HOST:PORT or unix:PATH into what net.Dial and net.Listen
// take. An empty text is none of its business.
func probeEndpoint(c *cli.Context, flag string) (network, address string, err error) {
	text := c.String(flag)
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		if c.Bool("udp") {
			return "", "", usage.Errorf("probe: --%s %q is a unix socket, and --udp is given", flag, text).WithHint("write HOST:PORT, or leave --udp out")
		}
		return "unix", path, nil
	}
	_, port, err := net.SplitHostPort(text)
	if text != "" && (err != nil || port == "") {
		return "", "", usage.Errorf("probe: --%s %q is neither HOST:PORT nor unix:PATH", flag, text).WithHint("write it as 127.0.0.1:8443, [::1]:8443 or unix:/run/gateway.sock")
	}
	if c.Bool("udp") {
		return "udp", text, nil
	}
	return "tcp", text, nil
}

func (p *probePlan) isDatagram() bool { return p.network == "udp" }

// headerEnd reads an address of the header; the empty text is none.
func headerEnd(flag, text string, port uint16) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a, port), nil
	}
	end, err := netip.ParseAddrPort(text)
	if err != nil || end.Addr().Zone() != "" {
		return netip.AddrPort{}, usage.Errorf("probe: --%s %q is no address of a header", flag, text).WithHint("write it as 203.0.113.9:4711 or [2001:db8::9]:4711")
	}
	return end, nil
}

func probePayload(c *cli.Context) ([]byte, error) {
	if c.IsSet("send-file") {
		return os.ReadFile(c.String("send-file"))
	}
	return unescape("send", c.String("send"))
}

// unescape reads the escapes of a Go string: \r, \n, \t, \0xx, \xHH, \\ and so
// on. Quotes stand for themselves.
func unescape(flag, text string) ([]byte, error) {
	b := make([]byte, 0, len(text))
	for rest := text; rest != ""; {
		if rest[0] != '\\' {
			b, rest = append(b, rest[0]), rest[1:]
			continue
		}
		r, wide, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			return nil, usage.Errorf("probe: --%s %q: bad escape at %q", flag, text, rest).WithHint(`known are \r \n \t \\ \x00 and \u00e9`)
		}
		if wide {
			b = append(b, string(r)...)
		} else {
			b = append(b, byte(r))
		}
		rest = tail
	}
	return b, nil
}

// Addresses reserved for documentation (RFC 5737 and RFC 3849), for headers
// whose addresses were not given.
var (
	exampleClient4      = netip.MustParseAddrPort("203.0.113.9:4711")
	exampleClient6      = netip.MustParseAddrPort("[2001:db8::9]:4711")
	exampleDestination4 = netip.MustParseAddrPort("198.51.100.1:443")
	exampleDestination6 = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// ends returns the addresses of the header on a connection to remote, which is
// invalid for a unix socket. What was not given takes the family of the rest.
func (p *probePlan) ends(remote netip.AddrPort) (client, destination netip.AddrPort) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	client, destination = p.client, p.destination
	if !client.IsValid() {
		client = exampleClient4
		if destination.Addr().Is6() || !destination.IsValid() && remote.Addr().Is6() {
			client = exampleClient6
		}
	}
	if destination.IsValid() {
		return client, destination
	}
	switch {
	case remote.IsValid() && remote.Addr().Is4() == client.Addr().Is4():
		destination = netip.AddrPortFrom(remote.Addr().WithZone(""), remote.Port())
	case client.Addr().Is4():
		destination = exampleDestination4
	default:
		destination = exampleDestination6
	}
	return client, destination
}

// header returns the header for a connection to remote, and its name.
func (p *probePlan) header(remote netip.AddrPort) (b []byte, name string, err error) {
	client, destination := p.ends(remote)
	message := proxyproto.Message{Command: proxyproto.CommandProxy, TLVs: p.tlvs, Checksum: p.checksum, Datagram: p.isDatagram()}
	switch p.kind {
	case headerNone:
		return nil, "none", nil
	case headerV1:
		return proxyproto.AppendV1(nil, client, destination), fmt.Sprintf("v1, from %v to %v", client, destination), nil
	case headerSimple:
		return datagram.AppendSPP(nil, client, destination), fmt.Sprintf("Simple Proxy Protocol, from %v to %v", client, destination), nil
	case headerV1Unknown:
		return proxyproto.AppendV1(nil, netip.AddrPort{}, netip.AddrPort{}), "v1 UNKNOWN", nil
	case headerV2Local:
		message.Command, name = proxyproto.CommandLocal, "v2 LOCAL"
	case headerV2Unspec:
		name = "v2 UNSPEC"
	default:
		message.Source, message.Destination = client, destination
		name = fmt.Sprintf("v2, from %v to %v", client, destination)
	}
	b, err = proxyproto.AppendV2(nil, &message)
	return b, name, err
}

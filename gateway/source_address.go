package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"unproxy/gateway/forward"
)

// SourceError reports a source address from which this host cannot connect.
type SourceError struct {
	// Forward is the name of the forward's first listener.
	Forward string
	// Prefix is the source address or prefix as configured, Address the first of its
	// addresses that does not serve.
	Prefix  netip.Prefix
	Address netip.Addr
	// Replaced means that it is a broadcast address; otherwise this host does not have it.
	Replaced bool
}

// Error names the address and what is wrong with it.
func (e *SourceError) Error() string {
	what := "is not an address of this host"
	if e.Replaced {
		what = "is a broadcast address"
	}
	if e.Prefix.IsSingleIP() {
		return fmt.Sprintf("forward %s: source address %s %s", e.Forward, e.Address, what)
	}
	return fmt.Sprintf("forward %s: source addresses %s: %s %s", e.Forward, e.Prefix, e.Address, what)
}

// Hint says what to do about it, on one line.
func (e *SourceError) Hint() string {
	switch {
	case e.Replaced:
		return "give the addresses without it: --source-address ADDR for each"
	case e.Prefix.IsSingleIP():
		return fmt.Sprintf("assign it: ip address add %s dev lo,"+
			" with the interface in place of lo if other hosts are to reach it", e.Prefix)
	}
	return fmt.Sprintf("let this host take the whole prefix: ip route add local %s dev lo", e.Prefix)
}

// checkSources checks that this host has the forwards' source addresses.
func (g *Gateway) checkSources() error {
	hasSources := func(f *forward.Forward) bool { return len(f.SourceAddresses) > 0 }
	if !slices.ContainsFunc(g.config.Forwards, hasSources) {
		return nil
	}
	nonlocal := nonlocalBind(os.DirFS("/"))
	var errs []error
	for _, f := range g.config.Forwards {
		errs = append(errs, checkSources(f, nonlocal))
	}
	return errors.Join(errs...)
}

// checkSources returns a [*SourceError] for each prefix of a forward that does not serve.
// nonlocal are the families in which the kernel binds to any address: those may come later,
// as keepalived's do.
func checkSources(f *forward.Forward, nonlocal families) error {
	var errs []error
	own, replaced := f.Source.Own, f.Source.Replaced
	for _, p := range f.SourceAddresses {
		for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
			e := SourceError{Forward: f.Listeners[0].Name, Prefix: p, Address: a, Replaced: replaced.Contains(a)}
			if e.Replaced || !own.Contains(a) && !nonlocal.has(a) {
				errs = append(errs, &e)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// families are the address families that have a property.
type families struct{ v4, v6 bool }

func (f families) has(a netip.Addr) bool { return a.Is4() && f.v4 || a.Is6() && f.v6 }

// nonlocalBind reads net.ipv4.ip_nonlocal_bind and its IPv6 twin from a file system from "/".
func nonlocalBind(files fs.FS) families {
	on := func(family string) bool {
		text, err := fs.ReadFile(files, "proc/sys/net/"+family+"/ip_nonlocal_bind")
		return err == nil && strings.TrimSpace(string(text)) != "0"
	}
	return families{on("ipv4"), on("ipv6")}
}

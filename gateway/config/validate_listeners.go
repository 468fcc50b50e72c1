package config

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"unproxy/gateway/forward"
)

// leadsBack reports whether b is the address of l itself. It resolves no name
// except localhost, and knows no address of this host except loopback.
func leadsBack(l forward.Listener, b forward.Backend) bool {
	if l.Endpoint.IsUnix() {
		return b.Endpoint.IsUnix() && filepath.Clean(l.Endpoint.Path) == filepath.Clean(b.Endpoint.Path)
	}
	if at := b.Endpoint.Addr; at.IsValid() {
		return at.Port() != 0 && covers(l, at) && (at == l.Endpoint.Addr || loopback(b))
	}
	if !loopback(b) || b.Port == 0 {
		return false
	}
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if covers(l, netip.AddrPortFrom(host, b.Port)) {
			return true
		}
	}
	return false
}

// place is the key under which listeners can clash: a port, or the path or name of
// a socket. Listeners on different addresses may share a port.
type place struct {
	datagrams bool
	port      uint16
	name      string
}

// claim is a listener of a forward or, with a flag, of the process itself.
type claim struct {
	forward.Listener
	owner int // the index of the forward, or of the flag after all forwards
	flag  string
}

// String returns the listener's name in messages.
func (c claim) String() string {
	if c.flag != "" {
		return c.flag + " " + c.Endpoint.String()
	}
	return c.Name
}

// noun returns the claim with what it is, unless the flag says that.
func (c claim) noun() string {
	if c.flag != "" {
		return c.String()
	}
	return "listener " + c.String()
}

// place returns what the claim is on; false is none that is known yet.
func (c claim) place(datagrams bool) (place, bool) {
	switch {
	case c.Activation != "" && c.Socket == nil:
		return place{name: c.Name}, true
	case c.Endpoint.IsUnix(): // UDP forwards are rejected elsewhere
		return place{name: filepath.Clean(c.Endpoint.Path)}, true
	}
	port := c.Endpoint.Addr.Port()
	return place{datagrams: datagrams, port: port}, port != 0
}

// clashes collects listeners that cannot both be opened. It groups them by their
// owners, so that two overlapping ranges of ports are one problem.
type clashes struct {
	claims map[place][]claim
	first  []*clash
	known  map[[2]int]*clash
}

// clash is the first clash between the listeners of two owners.
type clash struct {
	what, hint string
	more       int // further ports that clash
}

// listeners reports listeners that cannot both be opened.
func (v *validator) listeners(c *Config) {
	found := clashes{claims: map[place][]claim{}, known: map[[2]int]*clash{}}
	for i, f := range c.Forwards {
		for _, l := range f.Listeners {
			found.add(claim{Listener: l, owner: i}, f.Datagrams)
		}
	}
	for i, t := range c.Taken {
		found.add(claim{Listener: t.listener(), owner: len(c.Forwards) + i, flag: t.Flag}, false)
	}
	for _, clash := range found.first {
		v.problem(clash.what+morePorts(clash.more), clash.hint)
	}
}

// add adds a claim and records its clashes with earlier ones.
func (c *clashes) add(b claim, datagrams bool) {
	at, ok := b.place(datagrams)
	if !ok {
		return
	}
	for _, a := range c.claims[at] {
		what, hint := clashing(a, b)
		if what == "" {
			continue
		}
		owners := [2]int{a.owner, b.owner}
		if known := c.known[owners]; known != nil {
			known.more++
			continue
		}
		c.known[owners] = &clash{what: what, hint: hint}
		c.first = append(c.first, c.known[owners])
	}
	c.claims[at] = append(c.claims[at], b)
}

// clashing says why a and b, which claim the same place, cannot both be opened, or
// returns "" if they can.
func clashing(a, b claim) (what, hint string) {
	named := !a.Endpoint.Addr.IsValid()
	switch {
	case b.flag != "" && named:
		return fmt.Sprintf("%s and %s are the same socket", a.noun(), b), "give each a path of its own"
	case b.flag == "" && (named || a.Endpoint == b.Endpoint):
		return fmt.Sprintf("two forwards have the same listener: %s to %s, and %s to %s",
				a, a.BackendText(), b, b.BackendText()),
			"use different addresses, ports or sockets"
	case !covers(a.Listener, b.Endpoint.Addr) && !covers(b.Listener, a.Endpoint.Addr):
		return "", ""
	}
	both, hint := "listeners "+a.String(), "use different addresses or ports"
	if b.flag != "" {
		both = a.noun()
	} else if a.DualStack != b.DualStack && a.Endpoint.Addr.Addr().Is4() != b.Endpoint.Addr.Addr().Is4() {
		hint = fmt.Sprintf("write [::]:%d for IPv6 alone", a.Endpoint.Addr.Port())
	}
	return fmt.Sprintf("%s and %s use the same address and port", both, b), hint
}

// morePorts returns the end of the message of a problem that n more ports of a
// range have.
func morePorts(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "; 1 more port has the same problem"
	}
	return fmt.Sprintf("; %d more ports have the same problem", n)
}

// covers reports whether a listener accepts connections to addr.
func covers(l forward.Listener, addr netip.AddrPort) bool {
	at := l.Endpoint.Addr
	if !at.IsValid() || at.Port() != addr.Port() {
		return false
	}
	if at.Addr() == addr.Addr() {
		return true
	}
	wildcard := at.Addr().IsUnspecified()
	sameFamily := at.Addr().Is4() == addr.Addr().Is4()
	return wildcard && (sameFamily || l.DualStack)
}

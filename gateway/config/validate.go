package config

import (
	"fmt"
	"slices"
	"time"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// leastHeaderTimeout is the minimum that the PROXY protocol specification
// recommends (section 2). If the first segment of a header is lost, the
// retransmission arrives after 3 seconds.
const leastHeaderTimeout = 3 * time.Second

// nothingToForward is the message for a configuration without a forward.
const nothingToForward = "there is nothing to forward"

// Validate checks c. The error joins a [*Problem] for each fault. Validate does not
// change c and opens nothing.
func (c *Config) Validate() ([]Warning, error) {
	v := &validator{}
	if len(c.Forwards) == 0 {
		v.problem(nothingToForward, "add a forward: --forward :8443=127.0.0.1:443 --trust 10.0.0.0/8")
	}
	if min(c.Loops, c.MaxConnections, c.MaxWaiting, c.MaxFlows) < 0 || min(c.Spin, c.DrainDelay, c.DrainTimeout) < 0 {
		v.problem("loops, spin, limits and drain times must not be negative", "")
	}
	for _, f := range c.Forwards {
		v.forward(f)
	}
	v.listeners(c)
	v.redirectedTwice(c)
	return v.warnings, v.err()
}

// validator collects problems and warnings.
type validator struct {
	problems
	warnings []Warning
}

func (v *validator) problem(what, hint string) { v.add(what, hint) }

func (v *validator) warn(what, hint string) {
	v.warnings = append(v.warnings, Warning{Message: v.prefix + what, Hint: hint})
}

// forward checks a single forward.
func (v *validator) forward(f *forward.Forward) {
	if len(f.Listeners) == 0 {
		v.problem("a forward has no listener", "")
		return
	}
	v.prefix = "forward " + f.Listeners[0].Name + ": "
	defer func() { v.prefix = "" }()
	v.peers(f)
	v.clients(f)
	v.headers(f)
	v.tproxy(f)
	v.transparent(f)
	v.toa(f)
	v.destination(f)
	if f.Datagrams {
		v.datagrams(f)
	}
	if f.HasUnixListener() && f.SocketMode&0o002 != 0 {
		v.warn(fmt.Sprintf("socket mode %04o lets every user of this host name any client", f.SocketMode),
			"--socket-mode 0660")
	}
	v.backends(f)
	v.sources(f)
}

// peers checks which peers may name a client.
func (v *validator) peers(f *forward.Forward) {
	if f.Trust == nil {
		v.untrusting(f)
	}
	if !f.HasInternetListener() {
		return
	}
	if h, t, found := Overlap(f.Health, f.Trust); found {
		v.warn(fmt.Sprintf("health source %q overlaps trust rule %q: connections from there are closed, not forwarded",
			h.Text, t.Text),
			"limit --health-source to addresses that only send health checks")
	}
}

// untrusting checks a forward without a trust rule. Only unix sockets need none.
// Whether a systemd socket is a unix socket is not known yet.
func (v *validator) untrusting(f *forward.Forward) {
	const rule = "give the addresses of the load balancer: --trust 10.0.0.0/8"
	for _, l := range f.Listeners {
		switch {
		case l.Activation != "" && l.Socket == nil:
			v.warn("there is no trust rule: only a unix socket can be served", rule)
		case !l.Endpoint.IsUnix():
			v.problem("there is no trust rule: no peer may name a client", rule)
			return
		}
	}
}

// headers checks which headers are accepted.
func (v *validator) headers(f *forward.Forward) {
	if f.Header.RefuseV1 && f.Header.RefuseV2 {
		v.problem("neither header version is accepted", "--accept v1,v2")
	}
	switch {
	case !f.Header.RequireChecksum:
	case f.Header.RefuseV2:
		v.problem("a checksum is required, but only v1 headers are accepted, which have none", "--accept v2")
	case !f.Header.RefuseV1 && !f.Datagrams:
		v.warn("a checksum is required: v1 headers are rejected, because they have none", "--accept v2")
	}
	if f.Headers < 1 {
		v.problem("at least one header must be stripped", "--headers 1")
	}
	if t := f.HeaderTimeout; !f.Datagrams && t > 0 && t < leastHeaderTimeout {
		v.warn(fmt.Sprintf("header timeout %v is shorter than the 3s that the specification recommends:"+
			" a lost packet ends the connection", t),
			"--header-timeout 5s")
	}
}

// transparent checks that connections from a client's address can reach backends.
func (v *validator) transparent(f *forward.Forward) {
	if !f.Transparent {
		return
	}
	unix := f.AnyBackend(func(b forward.Backend) bool { return b.Endpoint.IsUnix() })
	other := f.AnyBackend(func(b forward.Backend) bool { return !b.Endpoint.IsUnix() })
	switch {
	case f.TOA.On:
	case unix && !other:
		v.problem("transparent mode cannot reach a backend on a unix socket: it has no addresses",
			"--transparent off, or write BACKEND as HOST:PORT")
	case unix:
		v.warn("transparent mode never uses backends on unix sockets: they have no addresses", "leave them out")
	}
	if !f.RejectUnknown {
		v.warn("with --unknown relay, the backend sees the gateway's own address for clients that no header names",
			"--unknown reject")
	}
	if coversFamily(f.Source.Allow) {
		v.warn("headers may name any source, including loopback and this gateway",
			"limit --allow-source to the addresses that you need")
	}
}

// leastFirstTimeout is twice the 30 seconds for which frp remembers a flow. frp
// sends a header only in the first datagram.
const leastFirstTimeout = 60 * time.Second

// datagrams checks what applies to UDP only.
func (v *validator) datagrams(f *forward.Forward) {
	if f.HasUnixListener() || f.AnyBackend(func(b forward.Backend) bool { return b.Endpoint.IsUnix() }) {
		v.problem("a udp:// forward has a unix socket", "write HOST:PORT on both sides")
	}
	if f.Header.RefuseV2 && f.DatagramHeader != forward.SimpleProxy {
		v.problem("UDP headers have version 2, which is not accepted", "--accept v1,v2")
	}
	if f.FlowTimeout <= 0 {
		v.problem("a UDP flow ends only by its idle timeout, which is 0", "--udp-idle-timeout 60s")
	}
	if f.DatagramHeader == forward.FirstDatagram && f.FlowTimeout < leastFirstTimeout {
		v.warn(fmt.Sprintf("flows end after %v of silence: a sender that remembers a flow longer sends no second header,"+
			" and its datagrams are dropped", f.FlowTimeout),
			"twice as long as the sender remembers a flow: --udp-idle-timeout 60s")
	}
}

// destination checks which destinations a header may name.
func (v *validator) destination(f *forward.Forward) {
	switch {
	case f.HasHeaderBackend() && f.AllowDestination == nil:
		v.problem("backend \"header\" needs a list of allowed destinations",
			"give the addresses of the backends: --allow-destination 10.1.0.0/16")
	case f.HasHeaderBackend() && coversFamily(f.AllowDestination):
		v.warn("headers may name any destination, including services on this host",
			"limit --allow-destination to the backends' addresses")
	}
}

// backends checks the backends of each listener. A fault of several ports of a
// range is one problem.
func (v *validator) backends(f *forward.Forward) {
	nowhere := func(l forward.Listener) bool { return len(l.Backends) == 0 }
	mixed := func(l forward.Listener) bool {
		return len(l.Backends) > 1 &&
			slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return b.FromHeader })
	}
	back := func(l forward.Listener) bool {
		return slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return leadsBack(l, b) })
	}
	v.ofListeners(f, nowhere, "has no backend", "write LISTEN=BACKEND")
	v.ofListeners(f, mixed, "combines backend \"header\" with others", "use it alone: LISTEN=header")
	v.ofListeners(f, back, "forwards to itself", "let the backend listen on another address or port")
}

// ofListeners records one problem for all listeners of f that have it.
func (v *validator) ofListeners(f *forward.Forward, has func(forward.Listener) bool, what, hint string) {
	first, n := "", 0
	for _, l := range f.Listeners {
		if !has(l) {
			continue
		}
		if n == 0 {
			first = l.Name
		}
		n++
	}
	if n > 0 {
		v.problem("listener "+first+" "+what+morePorts(n-1), hint)
	}
}

// Overlap returns a rule of each set that have an address in common.
func Overlap(a, b forward.Addresses) (one, other trust.Rule, found bool) {
	others := Rules(b)
	for _, x := range Rules(a) {
		for _, y := range others {
			if x.Prefix.Overlaps(y.Prefix) {
				return x, y, true
			}
		}
	}
	return one, other, false
}

// coversFamily reports whether a set contains a whole address family.
func coversFamily(a forward.Addresses) bool {
	for _, r := range Rules(a) {
		if r.Prefix.Bits() == 0 {
			return true
		}
	}
	return false
}

package config

import (
	"fmt"
	"slices"
	"time"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// leastHeaderTimeout is what the specification asks for (section 2): a header
// whose first segment is lost comes after a retransmission at 3 seconds.
const leastHeaderTimeout = 3 * time.Second

// Validate looks for everything that is wrong with c, and for what works but
// may not be meant. The error joins a [*Problem] for each fault. It does not
// change c and opens nothing.
func (c *Config) Validate() ([]Warning, error) {
	v := &validator{}
	if len(c.Forwards) == 0 {
		v.problem("there is nothing to forward", "say what to listen on and where it leads: --forward :8443=127.0.0.1:443 --trust 10.0.0.0/8")
	}
	if c.Loops < 0 || c.Spin < 0 || c.MaxConnections < 0 || c.MaxWaiting < 0 || c.MaxFlows < 0 || c.DrainDelay < 0 || c.DrainTimeout < 0 {
		v.problem("loops, the time to spin, connections and drain times cannot be negative", "")
	}
	for _, f := range c.Forwards {
		v.forward(f)
	}
	v.listeners(c)
	v.redirectedTwice(c)
	return v.warnings, v.err()
}

// validator collects what is found.
type validator struct {
	problems
	warnings []Warning
}

func (v *validator) problem(what, remedy string) { v.add(what, remedy) }

func (v *validator) warn(what, remedy string) {
	v.warnings = append(v.warnings, Warning{Message: v.prefix + what, Remedy: remedy})
}

// forward looks at one forward by itself.
func (v *validator) forward(f *forward.Forward) {
	if len(f.Listeners) == 0 {
		v.problem("a forward has no listener", "")
		return
	}
	v.prefix = "forward " + f.Listeners[0].Name + ": "
	defer func() { v.prefix = "" }()
	v.peers(f)
	v.headers(f)
	v.tproxy(f)
	v.transparent(f)
	v.destination(f)
	if f.Datagrams {
		v.datagrams(f)
	}
	if f.HasUnixListener() && f.SocketMode&0o002 != 0 {
		v.warn(fmt.Sprintf("socket mode %04o lets every user of this host name any client", f.SocketMode), "--socket-mode 0660")
	}
	v.backends(f)
}

// peers looks at who is believed.
func (v *validator) peers(f *forward.Forward) {
	if f.Trust == nil {
		v.untrusting(f)
	}
	if h, t, found := overlap(f.Health, f.Trust); found {
		v.warn(fmt.Sprintf("health source %q overlaps trust rule %q: connections from there are closed, not forwarded", h.Text, t.Text),
			"keep --health-source to addresses that only send health checks")
	}
}

// untrusting looks at a forward without a trust rule, which only unix sockets
// can do without. What systemd hands over is not known before it has.
func (v *validator) untrusting(f *forward.Forward) {
	const rule = "give the addresses of the load balancer: --trust 10.0.0.0/8"
	for _, l := range f.Listeners {
		switch {
		case l.Activation != "" && l.Socket == nil:
			v.warn("no trust rule says which peers may name a client: only a unix socket will do", rule)
		case !l.Endpoint.IsUnix():
			v.problem("no trust rule says which peers may name a client", rule)
			return
		}
	}
}

// headers looks at what is demanded of headers.
func (v *validator) headers(f *forward.Forward) {
	if f.Header.RefuseV1 && f.Header.RefuseV2 {
		v.problem("neither version of the header is accepted", "--accept v1,v2")
	}
	if f.Headers < 1 {
		v.problem("no header is to be taken off", "--headers 1")
	}
	if t := f.HeaderTimeout; !f.Datagrams && t > 0 && t < leastHeaderTimeout {
		v.warn(fmt.Sprintf("header timeout %v is shorter than the 3s that the specification asks for: a lost packet ends the connection", t), "--header-timeout 5s")
	}
}

// transparent looks at whether backends can be dialled from a client's address.
func (v *validator) transparent(f *forward.Forward) {
	if !f.Transparent {
		return
	}
	unix := f.AnyBackend(func(b forward.Backend) bool { return b.Endpoint.IsUnix() })
	other := f.AnyBackend(func(b forward.Backend) bool { return !b.Endpoint.IsUnix() })
	switch {
	case unix && !other:
		v.problem("transparent mode cannot reach a backend on a unix socket: it has no addresses",
			"--transparent off, or write BACKEND as HOST:PORT")
	case unix:
		v.warn("transparent mode never uses the backends on unix sockets: they have no addresses", "leave them out")
	}
	if !f.RejectUnknown {
		v.warn("with unknown relayed in transparent mode, the backend sees the gateway's own address for a client that no header names",
			"--unknown reject")
	}
	if everybody(f.Source.Allow) {
		v.warn("a header may name any source, also loopback and this gateway", "keep --allow-source to the addresses that are needed")
	}
}

// leastFirstTimeout is twice the 30 seconds for which senders that put a header
// on the first datagram alone remember a flow, frp among them.
const leastFirstTimeout = 60 * time.Second

// datagrams looks at what is particular to UDP.
func (v *validator) datagrams(f *forward.Forward) {
	if f.HasUnixListener() || f.AnyBackend(func(b forward.Backend) bool { return b.Endpoint.IsUnix() }) {
		v.problem("a udp:// forward has a unix socket", "write HOST:PORT on both sides")
	}
	if f.Header.RefuseV2 && f.DatagramHeader != forward.SimpleProxy {
		v.problem("UDP headers are of version 2, which is not accepted", "--accept v1,v2")
	}
	if f.FlowTimeout <= 0 {
		v.problem("a flow of datagrams has no end but silence, and none is long enough", "--udp-idle-timeout 60s")
	}
	if f.DatagramHeader == forward.FirstDatagram && f.FlowTimeout < leastFirstTimeout {
		v.warn(fmt.Sprintf("flows end after %v of silence, and a sender that remembers one for longer sends no header again: what it sends then is dropped", f.FlowTimeout),
			"twice as long as the sender remembers: --udp-idle-timeout 60s")
	}
}

// destination looks at where a header may lead.
func (v *validator) destination(f *forward.Forward) {
	switch {
	case f.HasHeaderBackend() && f.AllowDestination == nil:
		v.problem("backend \"header\" goes where the header says, and nothing says where that may be",
			"give the addresses of the backends: --allow-destination 10.1.0.0/16")
	case f.HasHeaderBackend() && everybody(f.AllowDestination):
		v.warn("a header may lead anywhere, also to services of this host", "keep --allow-destination to the backends' addresses")
	}
}

// backends looks at where the listeners of a forward lead. What is wrong with
// several ports of a range is one problem.
func (v *validator) backends(f *forward.Forward) {
	v.ofListeners(f, "leads nowhere", "write LISTEN=BACKEND", func(l forward.Listener) bool { return len(l.Backends) == 0 })
	v.ofListeners(f, "leads to \"header\" and to other backends", "let it stand alone: LISTEN=header", func(l forward.Listener) bool {
		return len(l.Backends) > 1 && slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return b.FromHeader })
	})
	v.ofListeners(f, "leads back to itself", "let the backend listen on another address or port", func(l forward.Listener) bool {
		return slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return leadsBack(l, b) })
	})
}

// ofListeners records a problem if any listener of f has it.
func (v *validator) ofListeners(f *forward.Forward, what, remedy string, has func(forward.Listener) bool) {
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
		v.problem("listener "+first+" "+what+morePorts(n-1), remedy)
	}
}

// overlap returns a rule of each set such that the two share an address.
func overlap(a, b forward.Addresses) (one, other trust.Rule, found bool) {
	for _, x := range Rules(a) {
		for _, y := range Rules(b) {
			if x.Prefix.Overlaps(y.Prefix) {
				return x, y, true
			}
		}
	}
	return one, other, false
}

// everybody reports whether a set holds a whole address family.
func everybody(a forward.Addresses) bool {
	for _, r := range Rules(a) {
		if r.Prefix.Bits() == 0 {
			return true
		}
	}
	return false
}

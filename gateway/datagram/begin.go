package datagram

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// begin makes a flow; nil if that may not or cannot be.
func (w *worker) begin(p *packet, k key, h *head) *flow {
	if w.draining {
		w.drop(p, refusal{Draining, ""})
		return nil
	}
	l := p.front.lane
	limit, counted := l.MaxConnectionsPerClient, false
	if limit > 0 && h.client.IsValid() {
		if counted = l.clients.Enter(h.client.Addr(), limit); !counted {
			w.drop(p, refusal{Limit, "flows of this client"})
			return nil
		}
	}
	w.makeRoom(l)
	f := w.table.add(k, l)
	f.front, f.peer, f.client, f.destination, f.counted = p.front, p.peer, h.client, h.destination, counted
	f.spoof = l.Transparent && h.client.IsValid()
	f.version, f.began, f.alive = h.version, w.host.Now(), w.host.Now()
	if h.spp != nil {
		f.spp = [SPPLength]byte(h.spp)
		f.header = f.spp[:]
	}
	w.enter(f)
	if no := w.connect(f); no.drop != 0 {
		w.leave(f)
		w.drop(p, no)
		return nil
	}
	if l.counts != nil && p.standing == balancer {
		l.counts.Admit(p.peer.Addr(), w.host.Index())
	}
	f.id, f.details = w.host.NextID(), engine.Details(h.tlvs)
	w.counters.opened.Add(1)
	l.tally.Accepted++
	w.wakeAt(f.alive + w.timeout(l))
	return f
}

// enter counts a flow, and leave takes it out of all that knows it.
func (w *worker) enter(f *flow) {
	loop := w.host.Index()
	w.relay.flows[loop].Add(1)
	f.lane.flows[loop].Add(1)
	w.host.Hold(f.lane.Forward)
}

func (w *worker) leave(f *flow) {
	loop := w.host.Index()
	w.relay.flows[loop].Add(-1)
	f.lane.flows[loop].Add(-1)
	w.host.Release(f.lane.Forward)
	w.hangUp(f)
	if f.counted {
		f.lane.clients.Leave(f.client.Addr())
	}
	w.table.remove(f)
}

func (f *flow) caller() engine.Caller {
	c := engine.Caller{Client: f.client, Destination: f.destination, Spoof: f.spoof}
	if !c.Client.IsValid() {
		c.Client = f.peer
	}
	return c
}

// connect gives a flow a socket to the first backend that can be had.
func (w *worker) connect(f *flow) (no refusal) {
	w.targets = f.front.Targets(w.targets[:0], f.caller())
	n := len(w.targets)
	if n == 0 {
		outcome, _, reason := f.front.NoTarget(f.caller())
		return refusal{dropOf(outcome), reason}
	}
	for i := range n {
		no = w.connectTo(f, w.targets[(int(f.attempt)+i)%n])
		if no.drop == 0 {
			f.attempt = uint8((int(f.attempt) + i) % n)
			f.alternatives = n > 1
			return refusal{}
		}
	}
	return no
}

// connectTo gives a flow a socket to a backend, from the address that the
// policy has for it.
func (w *worker) connectTo(f *flow, to engine.Endpoint) refusal {
	f.backend, f.source = to, netip.AddrPort{}
	policy := &f.front.Forward.Source
	if f.spoof {
		choice := policy.Choose(f.client, to.Addr)
		if choice.Rejection == transparent.FamilyMismatched {
			return refusal{FamilyMismatch, choice.Reason}
		}
		if choice.Rejection != transparent.None {
			return refusal{SourceDenied, choice.Reason}
		}
		f.source = choice.Source
	}
	errno, again := w.dial(f)
	if again && f.source.Port() != 0 && policy.SourcePort == transparent.Prefer {
		w.counters.portFallbacks.Add(1)
		f.lane.tally.PortFallbacks++
		f.source = netip.AddrPortFrom(f.source.Addr(), 0)
		errno, _ = w.dial(f)
	}
	if usedUp(errno) && w.giveWay(f) {
		errno, _ = w.dial(f)
	}
	switch {
	case errno == 0:
		return refusal{}
	case usedUp(errno):
		return refusal{Limit, errno.Error()}
	}
	outcome, _ := engine.DialOutcome(errno, f.source.IsValid())
	return refusal{dropOf(outcome), errno.Error()}
}

// usedUp says that the process or the host lacks descriptors, memory or, with
// EAGAIN, a free port (inet_autobind).
func usedUp(errno syscall.Errno) bool {
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN:
		return true
	}
	return false
}

// dial opens a flow's socket, from its source to its backend. again says that
// another port may do.
func (w *worker) dial(f *flow) (errno syscall.Errno, again bool) {
	if f.source.Port() != 0 && !w.claim(f) {
		return unix.EADDRNOTAVAIL, true
	}
	family := unix.AF_INET6
	if f.backend.Addr.Addr().Is4() {
		family = unix.AF_INET
	}
	if f.fd, errno = w.kernel.Socket(family); errno != 0 {
		f.fd = -1
		w.hangUp(f)
		return errno, false
	}
	if errno, again = w.prepare(f); errno == 0 {
		errno = w.kernel.Connect(f.fd, f.backend)
	}
	if errno == 0 {
		errno = w.host.Watch(f.fd, unix.EPOLLIN, w.keyOf(f))
	}
	if errno != 0 {
		w.hangUp(f)
		return errno, again
	}
	if f.source.IsValid() && f.source.Port() == 0 {
		if bound, errno := w.kernel.LocalAddr(f.fd); errno == 0 {
			f.source = bound // the backend's own log has the port
		}
	}
	return 0, false
}

// prepare sets a socket's options and binds it.
func (w *worker) prepare(f *flow) (errno syscall.Errno, again bool) {
	if mark := f.front.Forward.Mark; mark != 0 {
		if errno := w.kernel.SetOption(f.fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); errno != 0 {
			return errno, false
		}
	}
	if !f.source.IsValid() {
		return 0, false
	}
	errno = transparent.Bind(w.kernel, f.fd, f.source)
	return errno, transparent.RetryBind(errno)
}

// hangUp closes a flow's socket and gives up what it claimed.
func (w *worker) hangUp(f *flow) {
	if f.fd >= 0 {
		w.kernel.Close(f.fd)
		f.fd = -1
	}
	if f.claimed {
		f.claimed = false
		w.relay.claims.release(f.claim(), w.holder(f))
	}
}

// moveOn has a flow that its backend refused try the next one. What was sent
// is lost; the flow goes on.
func (w *worker) moveOn(f *flow) {
	f.refused = false
	if !f.alternatives {
		return
	}
	w.hangUp(f)
	f.attempt++
	if no := w.connect(f); no.drop != 0 {
		w.endAs(f, record.BackendUnreachable, record.Gateway, no.reason)
	}
}

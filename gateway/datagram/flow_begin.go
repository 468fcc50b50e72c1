package datagram

import (
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
	"unproxy/transparent"
)

// newFlow creates the flow of a datagram, or drops the datagram and returns nil.
func (w *worker) newFlow(p *packet, k key, h *header) *flow {
	if w.draining {
		w.drop(p, cause{Draining, ""})
		return nil
	}
	l := p.listener.list
	// Unlike a TCP connection, a flow that is refused comes again with each datagram. One
	// denied client would use up the accept rate of the peer, and so of all its clients.
	if no := w.admit(l, h); no.drop != 0 {
		w.drop(p, no)
		return nil
	}
	if !l.rates.Allow(p.peer.Addr(), w.host.Now()) {
		w.drop(p, cause{Limit, "the peer exceeds the accept-rate limit"})
		return nil
	}
	limit, counted := l.MaxConnectionsPerClient, false
	if limit > 0 && h.client.IsValid() {
		if counted = l.clients.Enter(h.client.Addr(), limit); !counted {
			w.drop(p, cause{Limit, "the client has too many flows"})
			return nil
		}
	}
	w.makeRoom(l)
	f := w.table.add(k, l)
	f.listener, f.peer, f.client, f.destination, f.counted = p.listener, p.peer, h.client, h.destination, counted
	f.spoof = l.Transparent && h.client.IsValid()
	f.version, f.command = h.version, h.command
	f.startedAt, f.lastActive = w.host.Now(), w.host.Now()
	if h.spp != nil {
		f.spp = [SPPLength]byte(h.spp)
		f.replyHeader = f.spp[:]
	}
	w.enter(f)
	if no := w.connect(f); no.drop != 0 {
		w.leave(f)
		w.drop(p, no)
		return nil
	}
	if l.counts != nil && p.class == trustedPeer {
		l.counts.Admit(p.peer.Addr(), w.host.Index())
	}
	f.id, f.details = w.host.NextID(), engine.Details(h.tlvs)
	w.counters.opened.Add(1)
	l.tally.Accepted++
	w.wakeAt(f.lastActive + w.timeout(l))
	return f
}

// admit decides whether the client of a new flow may be served.
func (w *worker) admit(l *lruList, h *header) cause {
	outcome, reason := record.OK, ""
	switch {
	case h.client.IsValid():
		outcome, reason = l.policy.Check(h.client.Addr(), w.host.Index(), w.host.Now())
	case h.command == record.CommandUnknown:
		outcome, reason = l.policy.CheckUnnamed()
	}
	if outcome == record.OK {
		return cause{}
	}
	return cause{dropFor(outcome), reason}
}

// enter counts a new flow.
func (w *worker) enter(f *flow) {
	loop := w.host.Index()
	w.relay.flows[loop].Add(1)
	f.list.flows[loop].Add(1)
	w.host.Hold(f.list.Forward)
}

// leave uncounts a flow and releases everything that it holds.
func (w *worker) leave(f *flow) {
	loop := w.host.Index()
	w.relay.flows[loop].Add(-1)
	f.list.flows[loop].Add(-1)
	w.host.Release(f.list.Forward)
	w.closeSocket(f)
	if f.counted {
		f.list.clients.Leave(f.client.Addr())
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

// connect connects a flow to the first backend that works, beginning with that of number f.attempt.
// Those that refused lately come last.
func (w *worker) connect(f *flow) (no cause) {
	w.targets = f.listener.Targets(w.targets[:0], f.caller())
	n := len(w.targets)
	if n == 0 {
		outcome, _, reason := f.listener.NoTarget(f.caller())
		return cause{dropFor(outcome), reason}
	}
	for i := range n {
		w.targets = append(w.targets, w.targets[(int(f.attempt)+i)%n])
	}
	all, turn := w.targets[:n], w.targets[n:]
	f.listener.Backends.Prefer(turn, w.host.Now())
	for _, to := range turn {
		no = w.connectTo(f, to)
		if no.drop == 0 {
			f.attempt, f.alternatives = uint8(slices.Index(all, to)), n > 1
			return cause{}
		}
	}
	return no
}

// connectTo connects a flow to a backend, from the source that the policy chooses.
func (w *worker) connectTo(f *flow, to forward.Endpoint) cause {
	f.backend, f.source = to, netip.AddrPort{}
	policy := &f.listener.Forward.Source
	if f.spoof {
		choice := policy.Choose(f.client, to.Addr)
		if choice.Rejection == transparent.FamilyMismatched {
			return cause{FamilyMismatch, choice.Reason}
		}
		if choice.Rejection != transparent.None {
			return cause{SourceDenied, choice.Reason}
		}
		f.source = choice.Source
	}
	errno := w.dialPreferred(f)
	if (outOfResources(errno) || f.lacksPort(errno)) && w.evictFor(f, errno) {
		errno = w.dialPreferred(f)
	}
	switch {
	case errno == 0:
		return cause{}
	case f.lacksPort(errno):
		return cause{Limit, "no source port is left: " + errno.Error()}
	case outOfResources(errno):
		return cause{Limit, errno.Error()}
	case errno == unix.EADDRNOTAVAIL && f.source.IsValid() && !f.spoof:
		return cause{BackendUnreachable, source.NotOwn(f.source.Addr(), errno)}
	}
	outcomeOf := engine.LocalOutcome
	if w.connected {
		outcomeOf = engine.DialOutcome
	}
	outcome, _ := outcomeOf(errno, f.source.Port() != 0)
	return cause{dropFor(outcome), errno.Error()}
}

// dialPreferred connects a flow from its source or, if the policy allows that, from another port.
func (w *worker) dialPreferred(f *flow) syscall.Errno {
	errno, again := w.dialFrom(f)
	if again && f.source.Port() != 0 && f.listener.Forward.Source.SourcePort == transparent.Prefer {
		w.counters.portFallbacks.Add(1)
		f.list.tally.PortFallbacks++
		f.source = netip.AddrPortFrom(f.source.Addr(), 0)
		errno, _ = w.dial(f)
	}
	return errno
}

// outOfResources reports whether an error means that the process or the host has
// no file descriptor, no memory or, for epoll_ctl(2), no watches left.
func outOfResources(errno syscall.Errno) bool {
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC:
		return true
	}
	return false
}

// lacksPort reports whether an error of bind(2) or connect(2) means that the
// flow's source address has no free port left (inet_autobind, inet_bind).
func (f *flow) lacksPort(errno syscall.Errno) bool {
	return errno == unix.EAGAIN || errno == unix.EADDRINUSE && f.source.Port() == 0
}

// dial opens and connects the socket of a flow. again reports whether another
// source port may succeed. A socket that is connected to itself is closed and
// replaced. If all attempts end like that, nothing receives on the backend's port, and
// the error is ECONNREFUSED.
func (w *worker) dial(f *flow) (errno syscall.Errno, again bool) {
	for range engine.SelfConnectTries {
		errno, again = w.dialOnce(f)
		if errno != 0 || !w.isSelfConnected(f) {
			break
		}
		w.closeSocket(f)
		errno, w.connected = unix.ECONNREFUSED, true
	}
	if errno == 0 && f.source.IsValid() && f.source.Port() == 0 {
		if bound, errno := w.kernel.LocalAddr(f.fd); errno == 0 {
			f.source = bound // as in the backend's own log
		}
	}
	return errno, again
}

// isSelfConnected reports whether the socket of a flow is connected to itself. That
// can happen only if the kernel chose its port, among those that include the
// backend's.
func (w *worker) isSelfConnected(f *flow) bool {
	ports := w.relay.config.Ephemeral
	if ports == nil || f.source.Port() != 0 || !ports.Contains(f.backend.Addr.Port()) {
		return false
	}
	local, errno := w.kernel.LocalAddr(f.fd)
	return errno == 0 && kernel.IsSelf(local, f.backend.Addr)
}

// dialOnce is dial without the check for a socket that is connected to itself.
func (w *worker) dialOnce(f *flow) (errno syscall.Errno, again bool) {
	w.connected = false
	if f.source.Port() != 0 && !w.claim(f) {
		return unix.EADDRNOTAVAIL, true
	}
	family := unix.AF_INET6
	if f.backend.Addr.Addr().Is4() {
		family = unix.AF_INET
	}
	if f.fd, errno = w.kernel.Socket(family); errno != 0 {
		f.fd = -1
		w.closeSocket(f)
		return errno, false
	}
	if errno, again = w.prepare(f); errno != 0 {
		w.closeSocket(f)
		return errno, again
	}
	if errno = w.kernel.Connect(f.fd, f.backend.Addr); errno != 0 {
		w.connected = true
		w.closeSocket(f)
		return errno, false
	}
	if errno = w.host.Watch(f.fd, unix.EPOLLIN, w.keyOf(f)); errno != 0 {
		w.closeSocket(f)
	}
	return errno, false
}

// prepare sets the options of a socket and binds it.
func (w *worker) prepare(f *flow) (errno syscall.Errno, again bool) {
	if mark := f.listener.Forward.Mark; mark != 0 {
		if errno := w.kernel.SetOption(f.fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); errno != 0 {
			return errno, false
		}
	}
	if !f.source.IsValid() {
		return 0, false
	}
	if !f.spoof {
		return source.Bind(w.kernel, f.fd, f.source.Addr(), f.listener.Forward.Source.Own), false
	}
	errno = transparent.Bind(w.kernel, f.fd, f.source)
	return errno, transparent.RetryBind(errno)
}

// closeSocket closes the socket of a flow and releases its claim.
func (w *worker) closeSocket(f *flow) {
	if f.fd >= 0 {
		w.kernel.Close(f.fd)
		f.fd = -1
	}
	if f.claimed {
		f.claimed = false
		w.relay.claims.release(f.claim(), w.holder(f))
	}
}

// failover connects a flow to the next backend, because the current one refused
// it. Datagrams already sent are lost; the flow continues. It ends a flow whose socket is broken.
func (w *worker) failover(f *flow) {
	f.failing = false
	if f.broken != 0 {
		w.endAs(f, cause{drop: brokenBy(f.broken)}.outcome(), record.Gateway, f.broken.Error())
		return
	}
	if !f.alternatives {
		return
	}
	w.closeSocket(f)
	f.attempt++
	if no := w.connect(f); no.drop != 0 {
		w.endAs(f, no.outcome(), record.Gateway, no.reason)
	}
}

// outcome is that of a flow that could not fail over.
func (c cause) outcome() record.Outcome {
	switch c.drop {
	case Limit:
		return record.Limit
	case Internal:
		return record.Internal
	}
	return record.BackendUnreachable
}

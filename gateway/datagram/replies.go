package datagram

import (
	"syscall"

	"unproxy/gateway/engine"
	"unproxy/gateway/record"

	"golang.org/x/sys/unix"
)

const (
	// maxReplies limits the replies of one flow that are read at once.
	maxReplies = 32
	// bulkReplies is the number of replies at once that makes a flow a bulk
	// flow: it gets GRO and a receive buffer of bulkQueue bytes.
	bulkReplies = 16
	bulkQueue   = 1 << 20
)

// readReplies reads the replies of one flow with its own system call.
func (w *worker) readReplies(f *flow) {
	if batchSize-w.replies.used < int(f.expected) {
		w.flushReplies()
	}
	base := w.replies.used
	n, errno := w.receiveReplies(f)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return
	case errno != 0:
		f.readFailed(errno)
		return
	}
	w.replies.used += n
	w.noteReply(f)
	for i := base; i < base+n; i++ {
		w.reply(f, w.replies.slot(i)[:w.replies.messages[i].Length], w.replies.arrival(i).segment)
	}
	f.adjustExpected(n)
	if n >= bulkReplies && !f.bulk {
		w.startBulk(f)
	}
}

// noteReply records that a flow's backend has answered.
func (w *worker) noteReply(f *flow) {
	if f.packetsOut == 0 || f.lastError != 0 {
		f.listener.Backends.Succeeded(f.backend, w.host.Now())
	}
	f.lastActive, f.lastError = w.host.Now(), 0
	f.list.touch(f)
}

// receiveReplies reads the expected number of replies.
func (w *worker) receiveReplies(f *flow) (int, syscall.Errno) {
	if f.expected > 1 || f.bulk {
		return w.kernel.Receive(f.fd, w.replies.unused(int(f.expected)))
	}
	i := w.replies.used
	length, errno := w.kernel.Read(f.fd, w.replies.slot(i))
	w.replies.messages[i].Length = uint32(length)
	w.replies.messages[i].SetControllen(0)
	return 1, errno
}

// adjustExpected sets how many replies to ask for next time. Most flows have one
// at a time, for which asking for more costs a third of a call; some have many.
func (f *flow) adjustExpected(n int) {
	if n == int(f.expected) {
		f.expected = uint8(min(2*n, maxReplies))
		return
	}
	f.expected = uint8(n)
}

// startBulk prepares the socket of a flow for many replies. Failure is harmless.
func (w *worker) startBulk(f *flow) {
	f.bulk = true
	w.kernel.SetOption(f.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	w.kernel.SetOption(f.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bulkQueue)
}

// reply queues a reply, or a GRO batch of replies.
func (w *worker) reply(f *flow, payload []byte, segment int) {
	if w.replySocket != f.listener {
		w.flushToPeer()
		w.replySocket = f.listener
	}
	merge := !f.listener.noGSO
	if segment == 0 || segment >= len(payload) || merge && len(f.replyHeader) == 0 {
		w.replyOne(f, payload, segment, merge)
		return
	}
	for len(payload) > 0 {
		n := min(segment, len(payload))
		w.replyOne(f, payload[:n], 0, merge)
		payload = payload[n:]
	}
}

func (w *worker) replyOne(f *flow, payload []byte, segment int, merge bool) {
	if !w.toPeer.room() {
		w.flushToPeer()
	}
	n := 1
	if segment > 0 {
		n = (len(payload) + segment - 1) / segment
	}
	f.packetsOut += int64(n)
	f.prove()
	f.bytesOut += int64(len(payload))
	w.traffic.packetsOut += uint64(n)
	w.traffic.bytesOut += uint64(len(payload))
	f.list.tally.Bytes[record.Out] += uint64(len(payload))
	w.toPeer.add(&f.reply, f.replyHeader, payload, segment, merge)
}

// flushReplies sends all queued replies; then their buffers are free again.
func (w *worker) flushReplies() {
	w.flushToPeer()
	w.replies.used = 0
}

func (w *worker) flushToPeer() {
	if w.replySocket != nil {
		w.toPeer.flush(w.kernel, w.replySocket.fd, w.replySocket)
	}
}

// pendingError ignores the error: an unconnected socket has no pending error of an
// earlier datagram.
func (ls *listenerSocket) pendingError(syscall.Errno) {}

func (ls *listenerSocket) lost(errno syscall.Errno, datagrams, _ int) {
	unreachable := PeerUnreachable
	if !isOfTheWay(errno) {
		unreachable = Internal
	}
	why := whyLost(errno, PeerBusy, unreachable)
	ls.worker.count(ls, cause{why, errno.Error()}, datagrams)
}

func (ls *listenerSocket) gsoRefused() { ls.noGSO = true }

// pendingError handles an error of a send call. One of the host is reported for the datagram when it is
// retried.
func (f *flow) pendingError(errno syscall.Errno) {
	if errno != unix.EACCES && isOfTheWay(errno) {
		f.noteError(errno)
	}
}

// isOfTheWay reports whether an error of a send call is about the way of the datagram. EINVAL is that of a
// route lookup from an address that the host has no longer (ip_route_output_key_hash_rcu).
func isOfTheWay(errno syscall.Errno) bool { return errno == unix.EINVAL || engine.FromNetwork(errno) }

// readFailed handles an error of a read. One of the host would come again with each event, so it ends the
// flow.
func (f *flow) readFailed(errno syscall.Errno) {
	if engine.FromNetwork(errno) {
		f.noteError(errno)
		return
	}
	f.broken = errno
	f.mustFailOver()
}

// noteError handles an error that the kernel reports about the backend, mostly
// because of an ICMP message: a datagram was lost, and the flow continues.
func (f *flow) noteError(errno syscall.Errno) {
	why := BackendUnreachable
	switch errno {
	case unix.EMSGSIZE: // the path MTU has shrunk, and the kernel knows it now
		return
	case unix.ECONNREFUSED:
		why = BackendRefused
	}
	f.lastError = errno
	f.listener.Backends.Failed(f.backend, errno, f.listener.worker.host.Now(), f.isTransparent())
	f.mustFailOver()
	f.listener.worker.count(f.listener, cause{why, f.backend.String() + ": " + errno.Error()}, 1)
}

// mustFailOver makes failoverAll work on the flow.
func (f *flow) mustFailOver() {
	if !f.failing {
		f.failing = true
		f.listener.worker.failing = append(f.listener.worker.failing, f.ref())
	}
}

// brokenBy returns why a flow whose socket is broken loses datagrams.
func brokenBy(errno syscall.Errno) Drop {
	if outOfResources(errno) {
		return Limit
	}
	return Internal
}

func (f *flow) lost(errno syscall.Errno, datagrams, bytes int) {
	f.packetsIn -= int64(datagrams)
	f.bytesIn -= int64(bytes)
	unreachable := BackendUnreachable
	switch {
	case errno == unix.ECONNREFUSED:
		unreachable = BackendRefused
	case !isOfTheWay(errno):
		unreachable = Internal
	}
	why := whyLost(errno, BackendBusy, unreachable)
	f.listener.worker.count(f.listener, cause{why, errno.Error()}, datagrams)
}

// whyLost returns why the kernel refused a datagram. busy and unreachable are the
// words for the side that it was sent to.
func whyLost(errno syscall.Errno, busy, unreachable Drop) Drop {
	switch {
	case queueFull(errno):
		return busy
	case errno == unix.EMSGSIZE:
		return TooBig
	case errno == unix.EPERM || errno == unix.EACCES:
		return Permission
	}
	return unreachable
}

func (f *flow) gsoRefused() { f.noGSO = true }

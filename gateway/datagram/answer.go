package datagram

import (
	"syscall"

	"unproxy/gateway/record"

	"golang.org/x/sys/unix"
)

const (
	// mostAnswers is how many replies of one flow are read at once.
	mostAnswers = 32
	// bulkAnswers is how many make it a flow in bulk, for which the kernel may
	// put replies together and keep more of them.
	bulkAnswers = 16
	bulkQueue   = 1 << 20
)

// answerAlone reads replies of a flow with a call of its own.
func (w *worker) answerAlone(f *flow) {
	if batchSize-w.answers.used < int(f.want) {
		w.sendBack()
	}
	base := w.answers.used
	n, errno := w.readAnswers(f)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return
	case errno != 0:
		f.told(errno)
		return
	}
	w.answers.used += n
	w.answered(f)
	for i := base; i < base+n; i++ {
		w.reply(f, w.answers.slot(i)[:w.answers.messages[i].Length], w.answers.arrival(i).segment)
	}
	f.expect(n)
	if n >= bulkAnswers && !f.bulk {
		w.inBulk(f)
	}
}

// answered notes that a flow's backend is there.
func (w *worker) answered(f *flow) {
	f.alive, f.failure = w.host.Now(), 0
	f.lane.touch(f)
}

// readAnswers reads as many replies as the flow has lately had at once.
func (w *worker) readAnswers(f *flow) (int, syscall.Errno) {
	if f.want > 1 || f.bulk {
		return w.kernel.Receive(f.fd, w.answers.unused(int(f.want)))
	}
	i := w.answers.used
	length, errno := w.kernel.Read(f.fd, w.answers.slot(i))
	w.answers.messages[i].Length = uint32(length)
	w.answers.messages[i].SetControllen(0)
	return 1, errno
}

// expect settles how many replies to ask for next: most flows have one at a
// time, for which asking for more costs a third of a call, and some have many.
func (f *flow) expect(n int) {
	if n == int(f.want) {
		f.want = uint8(min(2*n, mostAnswers))
		return
	}
	f.want = uint8(n)
}

// inBulk prepares a flow's socket for many replies. It works as well without.
func (w *worker) inBulk(f *flow) {
	f.bulk = true
	w.kernel.SetOption(f.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	w.kernel.SetOption(f.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bulkQueue)
}

// reply puts down a reply, or a train of them.
func (w *worker) reply(f *flow, payload []byte, segment int) {
	if w.returns != f.front {
		w.flushBack()
		w.returns = f.front
	}
	merge := !f.front.noTrains
	if segment == 0 || segment >= len(payload) || merge && len(f.header) == 0 {
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
	if !w.back.room() {
		w.flushBack()
	}
	n := 1
	if segment > 0 {
		n = (len(payload) + segment - 1) / segment
	}
	f.packetsOut += int64(n)
	f.bytesOut += int64(len(payload))
	w.counted.packetsOut += uint64(n)
	w.counted.bytesOut += uint64(len(payload))
	f.lane.tally.Bytes[record.Out] += uint64(len(payload))
	w.back.add(&f.reply, f.header, payload, segment, merge)
}

// sendBack sends all replies that were put down, after which their room may be
// used again.
func (w *worker) sendBack() {
	w.flushBack()
	w.answers.used = 0
}

func (w *worker) flushBack() {
	if w.returns != nil {
		w.back.flush(w.kernel, w.returns.fd, w.returns)
	}
}

// told is an error of a peer's address; a socket that is not connected reports
// none of an earlier datagram.
func (fr *front) told(syscall.Errno) {}

func (fr *front) lost(errno syscall.Errno, datagrams, _ int) {
	why := whyLost(errno, PeerBusy, PeerUnreachable)
	fr.worker.count(fr, refusal{why, errno.Error()}, datagrams)
}

func (fr *front) whole() { fr.noTrains = true }

// told is an error that the kernel reports of a flow's backend, mostly by ICMP:
// a datagram came to nothing, and the flow goes on.
func (f *flow) told(errno syscall.Errno) {
	why := BackendUnreachable
	switch errno {
	case unix.EMSGSIZE: // the path is narrower than it was: the kernel has learnt it
		return
	case unix.ECONNREFUSED:
		why = BackendRefused
	case unix.EPERM, unix.EACCES:
		return // of the same datagram when it is tried again
	}
	f.failure = errno
	if !f.refused {
		f.refused = true
		f.front.worker.refused = append(f.front.worker.refused, f.ticket())
	}
	f.front.worker.count(f.front, refusal{why, f.backend.String() + ": " + errno.Error()}, 1)
}

func (f *flow) lost(errno syscall.Errno, datagrams, bytes int) {
	f.packetsIn -= int64(datagrams)
	f.bytesIn -= int64(bytes)
	unreachable := BackendUnreachable
	if errno == unix.ECONNREFUSED {
		unreachable = BackendRefused
	}
	why := whyLost(errno, BackendBusy, unreachable)
	f.front.worker.count(f.front, refusal{why, errno.Error()}, datagrams)
}

// whyLost says why the kernel did not take a datagram; busy and unreachable are
// the words for the side that it was to go to.
func whyLost(errno syscall.Errno, busy, unreachable Drop) Drop {
	switch {
	case noRoom(errno):
		return busy
	case errno == unix.EMSGSIZE:
		return TooBig
	case errno == unix.EPERM || errno == unix.EACCES:
		return Permission
	}
	return unreachable
}

func (f *flow) whole() { f.noTrains = true }

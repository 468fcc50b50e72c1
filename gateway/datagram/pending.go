package datagram

import (
	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
)

// maxDeferredReplies is the number of expected replies up to which a flow is read
// together with others; beyond it the flow gets its own call.
const maxDeferredReplies = 4

// flowRef refers to a flow that may have ended since.
type flowRef struct {
	flow       *flow
	generation uint32
}

func (f *flow) ref() flowRef    { return flowRef{f, f.generation} }
func (t flowRef) isValid() bool { return t.flow.generation == t.generation }

// pendingRead is a flow whose replies wait to be read.
type pendingRead struct {
	flowRef
	expected int
}

// readBatch collects the reads of many flows for one system call.
type readBatch struct {
	pending  []pendingRead
	expected int // sum of all pending reads
	reads    []kernel.Transfer
}

// readOrDefer reads the replies of a flow, or defers that to read them together
// with others. The replies are sent at the end of the turn. Flow sockets are
// level-triggered, so the rest raises another event.
func (w *worker) readOrDefer(f *flow) {
	if w.batch == nil || f.bulk || f.expected > maxDeferredReplies {
		w.readReplies(f)
		w.failoverAll()
		return
	}
	if w.pendingReads.expected+int(f.expected) > batchSize {
		w.readPending()
	}
	w.pendingReads.pending = append(w.pendingReads.pending, pendingRead{f.ref(), int(f.expected)})
	w.pendingReads.expected += int(f.expected)
}

// readPending performs the deferred reads. It must run before anything that
// depends on how long flows were idle.
func (w *worker) readPending() {
	due := w.pendingReads.pending
	if len(due) == 0 {
		return
	}
	if len(due) < minTransfers {
		for _, e := range due {
			if e.isValid() {
				w.readReplies(e.flow)
			}
		}
	} else {
		w.readBatched(due)
	}
	w.pendingReads.pending, w.pendingReads.expected = due[:0], 0
	w.failoverAll()
}

// readBatched reads the expected replies of many flows with one call. A batch
// returns no control data; these flows need none, because they do not use GRO.
func (w *worker) readBatched(due []pendingRead) {
	if batchSize-w.replies.used < w.pendingReads.expected {
		w.flushReplies()
	}
	base := w.replies.used
	w.pendingReads.reads = w.pendingReads.reads[:0]
	for _, e := range due {
		for n := 0; n < e.expected && e.isValid(); n++ {
			slot := w.replies.slot(base + len(w.pendingReads.reads))
			w.pendingReads.reads = append(w.pendingReads.reads, kernel.Transfer{FD: e.flow.fd, B: slot})
		}
	}
	w.replies.used += len(w.pendingReads.reads)
	w.batch.Recv(w.pendingReads.reads)
	reads := w.pendingReads.reads
	for _, e := range due {
		if e.isValid() {
			w.takeReplies(e.flow, reads[:e.expected])
			reads = reads[e.expected:]
		}
	}
}

// takeReplies handles the replies of one flow from a batch. It does not end flows.
func (w *worker) takeReplies(f *flow, reads []kernel.Transfer) {
	n := 0
	for i := range reads {
		switch t := &reads[i]; t.Errno {
		case 0:
			w.noteReply(f)
			w.reply(f, t.B[:t.N], 0)
			n++
		case unix.EAGAIN, unix.EINTR:
		default:
			f.readFailed(t.Errno)
		}
	}
	if n > 0 {
		f.adjustExpected(n)
	}
}

// failoverAll makes the flows whose backend refused them try the next one.
func (w *worker) failoverAll() {
	for _, t := range w.failing {
		if t.isValid() {
			w.failover(t.flow)
		}
	}
	w.failing = w.failing[:0]
}

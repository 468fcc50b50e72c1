package datagram

import (
	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
)

// fewAnswers is how many replies of one flow are read together with those of
// others: more of them have a call of their own.
const fewAnswers = 4

// ticket is a flow that something is to be done about, if it has not ended by
// then.
type ticket struct {
	flow       *flow
	generation uint32
}

func (f *flow) ticket() ticket { return ticket{f, f.generation} }
func (t ticket) isAlive() bool { return t.flow.generation == t.generation }

// errand is a flow whose replies are to be read.
type errand struct {
	ticket
	want int
}

// collector is where reads of many flows are gathered, to be made with one call.
type collector struct {
	due   []errand
	want  int // of all of them
	reads []kernel.Transfer
}

// answer reads replies of a flow's backend, or puts that off to do it together
// with others, and puts the replies down to be sent when the loop rests. A
// flow's socket is level-triggered, so that what is left raises another event.
func (w *worker) answer(f *flow) {
	if w.batch == nil || f.bulk || f.want > fewAnswers {
		w.answerAlone(f)
		w.moveRefused()
		return
	}
	if w.gathered.want+int(f.want) > batchSize {
		w.collect()
	}
	w.gathered.due = append(w.gathered.due, errand{f.ticket(), int(f.want)})
	w.gathered.want += int(f.want)
}

// collect reads what was put off. It is done before anything is done about flows
// that goes by how long they were silent.
func (w *worker) collect() {
	due := w.gathered.due
	if len(due) == 0 {
		return
	}
	if len(due) < fewTransfers {
		for _, e := range due {
			if e.isAlive() {
				w.answerAlone(e.flow)
			}
		}
	} else {
		w.answerTogether(due)
	}
	w.gathered.due, w.gathered.want = due[:0], 0
	w.moveRefused()
}

// answerTogether reads as many replies of each flow as it has lately had at once.
// Those of such flows need no control data, which this way does not give: the
// kernel does not put them together.
func (w *worker) answerTogether(due []errand) {
	if batchSize-w.answers.used < w.gathered.want {
		w.sendBack()
	}
	base := w.answers.used
	w.gathered.reads = w.gathered.reads[:0]
	for _, e := range due {
		for n := 0; n < e.want && e.isAlive(); n++ {
			w.gathered.reads = append(w.gathered.reads, kernel.Transfer{FD: e.flow.fd, B: w.answers.slot(base + len(w.gathered.reads))})
		}
	}
	w.answers.used += len(w.gathered.reads)
	w.batch.Recv(w.gathered.reads)
	reads := w.gathered.reads
	for _, e := range due {
		if e.isAlive() {
			w.wereRead(e.flow, reads[:e.want])
			reads = reads[e.want:]
		}
	}
}

// wereRead takes the replies of a flow that were read together with others. None
// of this ends a flow.
func (w *worker) wereRead(f *flow, reads []kernel.Transfer) {
	n := 0
	for i := range reads {
		switch t := &reads[i]; t.Errno {
		case 0:
			w.answered(f)
			w.reply(f, t.B[:t.N], 0)
			n++
		case unix.EAGAIN, unix.EINTR:
		default:
			f.told(t.Errno)
		}
	}
	if n > 0 {
		f.expect(n)
	}
}

// moveRefused has the flows that their backends refused look for others.
func (w *worker) moveRefused() {
	for _, t := range w.refused {
		if t.isAlive() {
			w.moveOn(t.flow)
		}
	}
	w.refused = w.refused[:0]
}

package datagram

// The process that hands flows over sends messages, and the other one answers each of
// them. Messages and answers begin with the version. In a message, the kind follows:
//
//	begin  this process has stopped receiving; flows follow
//	flows  flows, each preceded by its length; the sockets are attached (SCM_RIGHTS)
//
// The answer to flows has a verdict for each flow. A process that does not support the
// version answers with its own version alone, and takes no flows.
const handoverVersion = 1

const (
	beginMessage = 'b'
	flowsMessage = 'f'
)

const (
	// mostFlowsAtOnce is the number of sockets in one message (SCM_MAX_FD, unix(7)).
	mostFlowsAtOnce = 253
	// mostHandoverBytes keeps a message below the usual send buffer of a unix socket,
	// net.core.wmem_default.
	mostHandoverBytes = 64 << 10
)

// verdict says whether the other process takes a flow, and why it does not.
type verdict uint8

const (
	taken verdict = iota
	unreadable
	noListener
	otherHeader
	otherSource
	noDescriptor
	sourceTaken
	numVerdicts
)

var verdictReasons = [numVerdicts]string{
	unreadable:   "the new process does not know this version of a flow",
	noListener:   "the new process has no such listener",
	otherHeader:  "the forward expects another kind of header in the new process",
	otherSource:  "the forward has another source or mark in the new process",
	noDescriptor: "the new process has no file descriptor left",
	sourceTaken:  "the new process already uses the client's address and port",
}

// reason returns the verdict as the reason in a record or a log line; "" for a flow
// that was taken.
func (v verdict) reason() string {
	if v >= numVerdicts {
		return "the new process refused it"
	}
	return verdictReasons[v]
}

// appendFlow appends a flow to a message of flows.
func appendFlow(message []byte, s *flowState) []byte {
	var flow, all codec
	s.fields(&flow)
	all.b = message
	all.bytes(&flow.b)
	return all.b
}

// cutFlow reads the next flow of a message. ok is false if it is invalid; rest may
// contain valid flows nevertheless.
func cutFlow(message []byte) (s flowState, rest []byte, ok bool) {
	all := codec{b: message, reading: true}
	var one []byte
	all.bytes(&one)
	c := codec{b: one, reading: true}
	s.fields(&c)
	return s, all.b, !all.broken && !c.broken && s.sane()
}

// answerVerdicts returns the verdicts of an answer. ok is false if it is of another
// version.
func answerVerdicts(answer []byte) (verdicts []byte, ok bool) {
	if len(answer) == 0 || answer[0] != handoverVersion {
		return nil, false
	}
	return answer[1:], true
}

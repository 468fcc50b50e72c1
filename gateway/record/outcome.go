package record

// Outcome is the one word for how a connection ended.
type Outcome uint8

// The outcomes, in the order of the phases that they belong to.
const (
	OK Outcome = iota
	Empty
	Untrusted
	NotProxy
	Malformed
	TooLong
	Unsupported
	BadChecksum
	Truncated
	HeaderTimeout
	SourceDenied
	FamilyMismatch
	DestinationDenied
	NoAddress
	BackendRefused
	BackendUnreachable
	ConnectTimeout
	NoReturnPath
	SourcePortBusy
	Permission
	Reset
	IdleTimeout
	Limit
	Drained
	Internal
	outcomes
)

// NumOutcomes is the number of outcomes: they are 0 to NumOutcomes-1.
const NumOutcomes = int(outcomes)

// Severity is how loudly an outcome is to be told.
type Severity uint8

// The severities.
const (
	Debug Severity = iota
	Info
	Warn
	Error
)

// entry is one row of the table from which logs, metrics, status page and
// documentation all take their words.
type entry struct {
	word     string
	meaning  string
	severity Severity
	phases   [NumPhases]bool // in which it is possible
}

// in is the set of some phases.
func in(phases ...Phase) (set [NumPhases]bool) {
	for _, p := range phases {
		set[p] = true
	}
	return set
}

var table = [outcomes]entry{
	OK:                 {"ok", "both sides finished", Info, in(Header, Relay)},
	Empty:              {"empty", "closed without a byte, as a TCP health check does", Debug, in(Trust, Header)},
	Untrusted:          {"untrusted", "the peer is not trusted; it was reset unread", Warn, in(Trust)},
	NotProxy:           {"not_proxy", "what came is not a PROXY header", Warn, in(Header)},
	Malformed:          {"malformed", "the header breaks the specification", Warn, in(Header)},
	TooLong:            {"too_long", "the header is longer than allowed", Warn, in(Header)},
	Unsupported:        {"unsupported", "a header version, command or family that is not taken", Warn, in(Header)},
	BadChecksum:        {"bad_checksum", "the header's CRC32C is wrong, or missing where it is required", Warn, in(Header)},
	Truncated:          {"truncated", "the connection ended in the middle of the header", Warn, in(Header)},
	HeaderTimeout:      {"header_timeout", "the header was not complete in time", Warn, in(Header)},
	SourceDenied:       {"source_denied", "the header names a source that it may not name", Warn, in(Dial)},
	FamilyMismatch:     {"family_mismatch", "client and backend are of different address families", Warn, in(Dial)},
	DestinationDenied:  {"destination_denied", "the destination is not one that may be reached", Warn, in(Dial)},
	NoAddress:          {"no_address", "the header names no client and one is needed", Warn, in(Dial)},
	BackendRefused:     {"backend_refused", "the backend refused the connection", Warn, in(Dial)},
	BackendUnreachable: {"backend_unreachable", "there is no way to the backend, or its name does not resolve", Warn, in(Dial)},
	ConnectTimeout:     {"connect_timeout", "the backend did not answer in time", Warn, in(Dial)},
	NoReturnPath:       {"no_return_path", "a transparent connect timed out where a plain one did not: the replies are not routed back", Warn, in(Dial)},
	SourcePortBusy:     {"source_port_busy", "the client's address and port are in use towards this backend", Warn, in(Dial)},
	Permission:         {"permission", "the system forbade the connection", Warn, in(Dial)},
	Reset:              {"reset", "one side reset the connection", Info, in(Header, Dial, Relay)},
	IdleTimeout:        {"idle_timeout", "nothing was sent for too long", Info, in(Relay)},
	Limit:              {"limit", "a limit on connections was reached", Warn, in(Trust, Dial)},
	Drained:            {"drained", "cut at the end of the drain", Info, in(Header, Dial, Relay)},
	Internal:           {"internal", "a fault of the gateway or its host", Error, in(Accept)},
}

// String returns the outcome's word in logs and metrics.
func (o Outcome) String() string { return table[o].word }

// Meaning returns the outcome in a short sentence.
func (o Outcome) Meaning() string { return table[o].meaning }

// Severity returns how loudly the outcome is to be told.
func (o Outcome) Severity() Severity { return table[o].severity }

// Possible reports whether a connection can end so in a phase.
func (o Outcome) Possible(in Phase) bool { return table[o].phases[in] }

// Outcomes returns every outcome, in the order of the table.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomes)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

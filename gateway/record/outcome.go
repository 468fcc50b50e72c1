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
}

var table = [outcomes]entry{
	OK:                 {"ok", "both sides finished", Info},
	Empty:              {"empty", "closed without a byte, as a TCP health check does", Debug},
	Untrusted:          {"untrusted", "the peer is not trusted; it was reset unread", Warn},
	NotProxy:           {"not_proxy", "what came is not a PROXY header", Warn},
	Malformed:          {"malformed", "the header breaks the specification", Warn},
	TooLong:            {"too_long", "the header is longer than allowed", Warn},
	Unsupported:        {"unsupported", "a header version, command or family that is not taken", Warn},
	BadChecksum:        {"bad_checksum", "the header's CRC32C is wrong, or missing where it is required", Warn},
	Truncated:          {"truncated", "the connection ended in the middle of the header", Warn},
	HeaderTimeout:      {"header_timeout", "the header was not complete in time", Warn},
	SourceDenied:       {"source_denied", "the header names a source that it may not name", Warn},
	FamilyMismatch:     {"family_mismatch", "client and backend are of different address families", Warn},
	DestinationDenied:  {"destination_denied", "the destination is not one that may be reached", Warn},
	NoAddress:          {"no_address", "the header names no client and one is needed", Warn},
	BackendRefused:     {"backend_refused", "the backend refused the connection", Warn},
	BackendUnreachable: {"backend_unreachable", "there is no way to the backend, or its name does not resolve", Warn},
	ConnectTimeout:     {"connect_timeout", "the backend did not answer in time", Warn},
	NoReturnPath:       {"no_return_path", "a transparent connect timed out where a plain one did not: the replies are not routed back", Warn},
	SourcePortBusy:     {"source_port_busy", "the client's address and port are in use towards this backend", Warn},
	Permission:         {"permission", "the system forbade the connection", Warn},
	Reset:              {"reset", "one side reset the connection", Info},
	IdleTimeout:        {"idle_timeout", "nothing was sent for too long", Info},
	Limit:              {"limit", "a limit on connections was reached", Warn},
	Drained:            {"drained", "cut at the end of the drain", Info},
	Internal:           {"internal", "a fault of the gateway or its host", Error},
}

// String returns the outcome's word in logs and metrics.
func (o Outcome) String() string { return table[o].word }

// Meaning returns the outcome in a short sentence.
func (o Outcome) Meaning() string { return table[o].meaning }

// Severity returns how loudly the outcome is to be told.
func (o Outcome) Severity() Severity { return table[o].severity }

// Outcomes returns every outcome, in the order of the table.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomes)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

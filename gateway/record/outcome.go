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
	remedy   string
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
	OK: {"ok", "both sides finished",
		"nothing", Info, in(Header, Relay)},
	Empty: {"empty", "closed without a byte, as a TCP health check does",
		"nothing; it is logged at debug level", Debug, in(Trust, Header)},
	Untrusted: {"untrusted", "the peer is not trusted; it was reset",
		"is it your load balancer? Add its address to --trust. Else somebody knocks: a firewall keeps them out. In a later phase: --cut-untrusted, after a reload", Warn, in(Trust, Header, Dial, Relay)},
	NotProxy: {"not_proxy", "what came is not a PROXY header",
		"the load balancer does not send one: switch it on there", Warn, in(Header)},
	Malformed: {"malformed", "the header breaks the specification",
		"reason and offset say where; unproxy decode explains a captured one", Warn, in(Header)},
	TooLong: {"too_long", "the header is longer than allowed",
		"raise --max-header if the load balancer sends client certificates", Warn, in(Header)},
	Unsupported: {"unsupported", "a header version, command or family that is not taken",
		"compare the load balancer's version with --accept", Warn, in(Header)},
	BadChecksum: {"bad_checksum", "the header's CRC32C is wrong, or missing where it is required",
		"something on the way changes bytes; or the load balancer sends none and --require-checksum asks for it", Warn, in(Header)},
	Truncated: {"truncated", "the connection ended in the middle of the header",
		"a broken sender, or a client that gave up", Warn, in(Header)},
	HeaderTimeout: {"header_timeout", "the header was not complete in time",
		"behind AWS NLB see docs/load-balancers.md; else the load balancer sends none", Warn, in(Header)},
	SourceDenied: {"source_denied", "the header names a source that it may not name",
		"reason says what kind; --allow-source lifts it where it is meant", Warn, in(Dial)},
	FamilyMismatch: {"family_mismatch", "client and backend are of different address families",
		"give a backend of each family, or choose with --family-mismatch", Warn, in(Dial)},
	DestinationDenied: {"destination_denied", "the destination is not one that may be reached",
		"reason says why; extend --allow-destination if it should be. One that leads back to the listener never may", Warn, in(Dial)},
	NoAddress: {"no_address", "the header names no client and one is needed",
		"a health check, or a client on a unix socket; --unknown relay lets it through", Warn, in(Dial)},
	BackendRefused: {"backend_refused", "the backend refused the connection",
		"is it running, and does it listen on this address?", Warn, in(Dial)},
	BackendUnreachable: {"backend_unreachable", "there is no way to the backend, or its name does not resolve",
		"check route and name; reason is the system's error", Warn, in(Dial)},
	ConnectTimeout: {"connect_timeout", "the backend did not answer in time",
		"is it overloaded, or does a firewall drop packets?", Warn, in(Dial)},
	NoReturnPath: {"no_return_path", "a transparent connect timed out where a plain one did not: the replies are not routed back",
		"action is the command that sets up the way back; unproxy doctor finds out why", Warn, in(Dial)},
	SourcePortBusy: {"source_port_busy", "the client's address and port are in use towards this backend",
		"--source-port prefer takes another port", Warn, in(Dial)},
	Permission: {"permission", "the system forbade the connection",
		"a capability is missing, or a firewall rule rejects", Warn, in(Dial)},
	Reset: {"reset", "one side reset the connection",
		"usually nothing; by says which side, gateway that an operator cut it", Info, in(Header, Dial, Relay)},
	IdleTimeout: {"idle_timeout", "nothing was sent for too long",
		"raise --idle-timeout, or have the protocol send keep-alives", Info, in(Relay)},
	Limit: {"limit", "a limit on connections was reached",
		"reason says which: one of the limits that are set, or the host or the process is out of descriptors or memory", Warn, in(Trust, Header, Dial)},
	Drained: {"drained", "cut at the end of the drain",
		"a longer --drain-timeout lets more finish", Info, in(Header, Dial, Relay)},
	Internal: {"internal", "a fault of the gateway or its host",
		"reason has the system's error; please report it", Error, in(Accept)},
}

// String returns the outcome's word in logs and metrics.
func (o Outcome) String() string { return table[o].word }

// Meaning returns the outcome in a short sentence.
func (o Outcome) Meaning() string { return table[o].meaning }

// Remedy says what an operator may do about it.
func (o Outcome) Remedy() string { return table[o].remedy }

// Severity returns how loudly the outcome is to be told.
func (o Outcome) Severity() Severity { return table[o].severity }

// Refused reports whether the outcome means that a connection was not served:
// somebody has to do something about it, or wants to know why.
func (o Outcome) Refused() bool { return o.Severity() >= Warn }

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

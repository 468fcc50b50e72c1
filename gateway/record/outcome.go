package record

// Outcome is how a connection ended. The zero value is [OK].
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
	ClientDenied
	SourceDenied
	FamilyMismatch
	DestinationDenied
	NoAddress
	BackendRefused
	BackendUnreachable
	ConnectTimeout
	NoReturnPath
	SourcePortBusy
	TOAUnattached
	TOAUnpromised
	TOAUnread
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

// Severity is the log level at which an outcome is reported.
type Severity uint8

// The severities, in ascending order.
const (
	Debug Severity = iota
	Info
	Warn
	Error
)

// entry is one row of the table that logs, metrics, status page and
// documentation take their words from.
type entry struct {
	word     string
	meaning  string
	hint     string
	severity Severity
	phases   [NumPhases]bool // in which a connection can end like this
}

// in returns the set of the given phases.
func in(phases ...Phase) (set [NumPhases]bool) {
	for _, p := range phases {
		set[p] = true
	}
	return set
}

var table = [outcomes]entry{
	OK: {"ok", "both sides finished",
		"nothing to do",
		Info, in(Header, Relay)},
	Empty: {"empty", "closed without a byte, as a TCP health check does",
		"nothing to do; logged at debug level",
		Debug, in(Trust, Header)},
	Untrusted: {"untrusted", "the peer is not trusted, and the connection was reset",
		"if the peer is your load balancer, add its address to --trust; otherwise block it in the firewall. " +
			"In a later phase, --cut-untrusted reset the connection after a reload",
		Warn, in(Trust, Header, Dial, Relay)},
	NotProxy: {"not_proxy", "the peer sent something other than a PROXY header",
		"enable the PROXY protocol on the load balancer",
		Warn, in(Header)},
	Malformed: {"malformed", "the header violates the specification",
		"reason and offset say where; unproxy decode explains a captured header",
		Warn, in(Header)},
	TooLong: {"too_long", "the header is longer than allowed",
		"raise --max-header if the load balancer sends client certificates",
		Warn, in(Header)},
	Unsupported: {"unsupported", "the header's version, command or address family is not accepted",
		"compare the version that the load balancer sends with --accept",
		Warn, in(Header)},
	BadChecksum: {"bad_checksum", "the header's CRC32C is wrong, or missing where it is required",
		"check for devices that change bytes on the way; " +
			"if the load balancer sends no checksum, remove --require-checksum",
		Warn, in(Header)},
	Truncated: {"truncated", "the connection ended in the middle of the header",
		"usually a client that gave up, otherwise a faulty sender",
		Warn, in(Header)},
	HeaderTimeout: {"header_timeout", "the header was not complete in time",
		"behind AWS NLB, see docs/load-balancers.md; otherwise check that the load balancer sends a header",
		Warn, in(Header)},
	ClientDenied: {"client_denied", "the client is not allowed, or banned",
		"reason says which: --deny-client, --allow-client, or a ban, which unproxy bans lists. " +
			"In the phase relay, unproxy ban --cut ended the connection",
		Warn, in(Trust, Header, Dial, Relay)},
	SourceDenied: {"source_denied", "the header names a source address that is not allowed",
		"reason says why; if the address is legitimate, allow it with --allow-source, " +
			"which permits no broadcast or multicast address",
		Warn, in(Dial)},
	FamilyMismatch: {"family_mismatch", "client and backend have different address families",
		"configure a backend of each family, or choose a policy with --family-mismatch",
		Warn, in(Dial)},
	DestinationDenied: {"destination_denied", "the destination is not allowed",
		"reason says why; if it should be reachable, extend --allow-destination. " +
			"A destination that leads to a listener of the gateway itself, the admin endpoint included, is always denied",
		Warn, in(Dial)},
	NoAddress: {"no_address", "the header names no client, and one is required",
		"a health check, or a client on a unix socket; --unknown relay accepts it",
		Warn, in(Dial)},
	BackendRefused: {"backend_refused", "the backend refused the connection",
		"check that the backend is running and listens on this address",
		Warn, in(Dial)},
	BackendUnreachable: {"backend_unreachable", "there is no route to the backend, or its name does not resolve",
		"check the route and the name; reason is the system's error",
		Warn, in(Dial)},
	ConnectTimeout: {"connect_timeout", "the backend did not answer in time",
		"check whether the backend is overloaded, or a firewall drops packets",
		Warn, in(Dial)},
	NoReturnPath: {"no_return_path",
		"a transparent connect timed out where a plain one did not: replies are not routed back to the gateway",
		"action is the command that sets up the return path; unproxy doctor finds the cause",
		Warn, in(Dial)},
	SourcePortBusy: {"source_port_busy",
		"the client's address and port are in use, towards this backend or by a program that listens on every address",
		"--source-port prefer falls back to another port",
		Warn, in(Dial)},
	TOAUnattached: {"toa_unattached", "no program on the gateway's host takes the client's address for the TCP option",
		"run unproxy toa attach --gateway for the gateway's cgroup, as root; it lasts as long as the cgroup",
		Warn, in(Dial)},
	TOAUnpromised: {"toa_unpromised",
		"the backend's host did not promise to read the client's address from the TCP option, and got no payload",
		"run unproxy toa check on the backend's host: it may lack the programs, this gateway in --from," +
			" or the port, or the backend has listened since before; a middlebox may strip the option",
		Warn, in(Dial)},
	TOAUnread: {"toa_unread",
		"the backend's host promised to read the client's address, and then acknowledged nothing",
		"unproxy toa status on the backend's host counts what it drops and why; a middlebox may strip the option" +
			" after the handshake",
		Warn, in(Relay)},
	Permission: {"permission", "the system did not permit the connection",
		"check the gateway's capabilities, and the firewall for rules that reject",
		Warn, in(Dial)},
	Reset: {"reset", "one side reset the connection",
		"usually nothing; by says which side, and gateway means that an operator cut it",
		Info, in(Header, Dial, Relay)},
	IdleTimeout: {"idle_timeout", "no data for longer than the idle timeout",
		"raise --idle-timeout, or enable keep-alives in the protocol",
		Info, in(Relay)},
	Limit: {"limit", "a limit on connections was reached",
		"reason says which: a configured limit, or the host or the process is out of file descriptors," +
			" memory or source ports",
		Warn, in(Trust, Header, Dial, Relay)},
	Drained: {"drained", "cut at the end of the drain",
		"a longer --drain-timeout lets more connections finish",
		Info, in(Header, Dial, Relay)},
	Internal: {"internal", "a fault of the gateway or its host",
		"reason is the system's error; please report it",
		Error, in(Accept, Header, Dial, Relay)},
}

// String returns the outcome's word in logs and metrics, such as "not_proxy".
// Like all methods of Outcome it panics for a value that is not below
// [NumOutcomes].
func (o Outcome) String() string { return table[o].word }

// Meaning explains the outcome in a short clause.
func (o Outcome) Meaning() string { return table[o].meaning }

// Hint says what an operator can do about the outcome. It refers to other keys
// of the log line (reason, offset, action, by) by name.
func (o Outcome) Hint() string { return table[o].hint }

// Severity returns the log level of the outcome.
func (o Outcome) Severity() Severity { return table[o].severity }

// Refused reports whether the connection was not served and the operator may
// want to know why: all outcomes of severity [Warn] or above.
func (o Outcome) Refused() bool { return o.Severity() >= Warn }

// Possible reports whether a connection in the given phase can end with this
// outcome. Metrics have a series for each possible pair from the start.
func (o Outcome) Possible(in Phase) bool { return table[o].phases[in] }

// Outcomes returns every outcome, in the order of their values. The caller owns
// the slice.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomes)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

package accesslog

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"unproxy/gateway/record"
)

// Connection writes the line of a finished connection, unless the mode, the
// level or the rate limit leaves it out. It does not retain c and does not
// block. It allocates nothing but the copy of the line that waits in the ring.
func (l *Log) Connection(c *record.Connection) {
	if l.mode.leavesOut(c.Outcome) {
		return
	}
	level := severityLevel(c.Severity())
	if level < l.lines.GetLevel() {
		return
	}
	now := l.now()
	if isLimited(c.Outcome) && !l.floods[c.Outcome].admit(now) {
		return
	}
	e := l.lines.WithLevel(level)
	addTime(e, now)
	l.addParties(e, c)
	addEnd(e, c)
	if c.Details != nil {
		addDetails(e, c.Details)
	}
	if l.level == Debug && len(c.Sample) > 0 {
		e.Str("sample", strconv.Quote(c.Sample))
	}
	e.Msg("connection")
}

// addParties adds the ID, the listener, and the addresses of all parties.
func (l *Log) addParties(e *zerolog.Event, c *record.Connection) {
	var buf [96]byte
	e.Bytes("id", record.AppendID(buf[:0], l.instance, c.ID))
	e.Str("forward", c.Forward)
	if c.Datagram {
		e.Str("protocol", "udp")
	}
	if c.Peer.IsValid() {
		addAddrPort(e, "peer", c.Peer)
	} else {
		e.Str("peer", "unix")
	}
	addAddrPort(e, "client", c.Client)
	addAddrPort(e, "destination", c.Destination)
	if c.Backend.IsValid() || c.BackendPath == "" {
		addAddrPort(e, "backend", c.Backend)
	} else {
		e.Bytes("backend", append(append(buf[:0], "unix:"...), c.BackendPath...))
	}
	if c.Source.IsValid() && c.Source != c.Client {
		addAddrPort(e, "source", c.Source)
	}
	if c.Mapped() {
		e.Bool("mapped", true)
	}
	e.Bool("transparent", c.Transparent)
	if c.TOA {
		e.Bool("toa", true)
	}
	e.Uint8("version", c.Version)
	if c.Command != record.NoCommand {
		e.Str("command", c.Command.String())
	}
}

// addEnd adds how the connection ended, how much it carried, and its times.
func addEnd(e *zerolog.Event, c *record.Connection) {
	e.Str("outcome", c.Outcome.String()).Str("phase", c.Phase.String()).Str("by", c.By.String())
	if c.Reason != "" {
		e.Str("reason", printable(c.Reason))
	}
	addText(e, "action", c.Action)
	if hasOffset(c.Outcome) {
		e.Int("offset", c.Offset)
	}
	e.Int64("bytes_in", c.BytesIn).Int64("bytes_out", c.BytesOut)
	if c.Datagram {
		e.Int64("datagrams_in", c.DatagramsIn).Int64("datagrams_out", c.DatagramsOut)
	}
	addMillis(e, "header_ms", c.HeaderTime)
	addMillis(e, "connect_ms", c.ConnectTime)
	addMillis(e, "duration_ms", c.Duration)
}

// hasOffset reports whether an outcome is the fault of a header, whose line has
// the offset of the fault.
func hasOffset(o record.Outcome) bool { return o >= record.NotProxy && o <= record.HeaderTimeout }

// addDetails adds what the header said beyond the addresses.
func addDetails(e *zerolog.Event, d *record.Details) {
	addText(e, "authority", d.Authority)
	addText(e, "alpn", d.ALPN)
	addUniqueID(e, d.UniqueID)
	addTLS(e, d)
	addText(e, "aws_vpce", d.AWSVPCEndpoint)
	if d.HasAzureLink {
		e.Uint32("azure_link", d.AzureLink)
	}
	if d.HasGCPConnection {
		e.Uint64("gcp_psc", d.GCPConnection)
	}
}

// addTLS adds what the header said about the client's TLS. Unless the load balancer
// verified the certificate, the common name has another key, because the client may
// have chosen it freely.
func addTLS(e *zerolog.Event, d *record.Details) {
	addText(e, "tls_version", d.TLSVersion)
	if d.HasTLSVerify {
		e.Bool("tls_verified", d.TLSVerified)
	}
	if d.TLSVerify != 0 {
		e.Uint32("tls_verify_error", d.TLSVerify)
	}
	if d.TLSVerified {
		addText(e, "tls_cn", d.TLSCommonName)
		return
	}
	addText(e, "tls_cn_unverified", d.TLSCommonName)
}

// addUniqueID adds an id as text, or as hex if it is not printable: bytes in hex
// can be searched for in the sender's log.
func addUniqueID(e *zerolog.Event, id string) {
	switch {
	case id == "":
	case isPrintable(id):
		e.Str("unique_id", id)
	default:
		var buf [2 * record.MaxDetail]byte
		e.Bytes("unique_id", hex.AppendEncode(buf[:0], []byte(id)))
	}
}

// addText adds a text from the network, unless it is empty.
func addText(e *zerolog.Event, key, text string) {
	if text != "" {
		e.Str(key, printable(text))
	}
}

// addAddrPort adds an address and port, or the empty string if a is invalid.
func addAddrPort(e *zerolog.Event, key string, a netip.AddrPort) {
	if !a.IsValid() {
		e.Str(key, "")
		return
	}
	var buf [64]byte // "[", 39 of an IPv6 address, "%" and 15 of an interface, "]:65535"
	e.Bytes(key, a.AppendTo(buf[:0]))
}

// addMillis adds a duration in milliseconds with three decimals. It formats a
// fixed-point number because formatting a float costs more than the rest of the
// line.
func addMillis(e *zerolog.Event, key string, d time.Duration) {
	us := max(d.Microseconds(), 0)
	var buf [24]byte
	b := strconv.AppendInt(buf[:0], us/1000, 10)
	e.RawJSON(key, appendDigits(append(b, '.'), int(us%1000), 3))
}

// printable returns s unchanged if it is safe to show on any terminal, and as a
// quoted Go string otherwise. JSON's own escapes are not enough: they keep the
// control characters above U+007F and the marks that change the direction of
// text, and they replace every invalid byte by the same character.
func printable(s string) string {
	if !isPrintable(s) {
		return strconv.Quote(s)
	}
	return s
}

// isPrintable reports whether s is safe to show on any terminal.
func isPrintable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf || s[i] < ' ' || s[i] == 0x7f {
			return isPrintableUnicode(s)
		}
	}
	return true
}

// isPrintableUnicode is [isPrintable] for a string with bytes outside printable
// ASCII.
func isPrintableUnicode(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

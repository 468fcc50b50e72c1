package command

import (
	"fmt"
	"io"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// writeStack prints headers for people, the outermost first.
func writeStack(w io.Writer, stack []decoded) error {
	var text strings.Builder
	for i := range stack {
		if i > 0 {
			text.WriteByte('\n')
		}
		if len(stack) > 1 {
			fmt.Fprintf(&text, "header       %d, from byte %d\n", i+1, stack[i].start)
		}
		stack[i].print(&text)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func (d *decoded) print(w io.Writer) {
	switch {
	case d.refusal != nil:
		d.printRefusal(w)
		return
	case d.header.Result == proxyproto.Incomplete:
		fmt.Fprintf(w, "result       incomplete\n")
		fmt.Fprintf(w, "missing      at least %d bytes after %d\n", proxyproto.Missing(d.input), len(d.input))
		return
	}
	h := &d.header
	fmt.Fprintf(w, "result       %v%s\n", h.Result, resultNote(h))
	fmt.Fprintf(w, "version      %d\n", h.Version)
	if h.Result == proxyproto.Proxy {
		fmt.Fprintf(w, "source       %v\n", h.Source)
		fmt.Fprintf(w, "destination  %v\n", h.Destination)
	}
	if h.Version == 2 {
		fmt.Fprintf(w, "protocol     0x%02x %s\n", h.Protocol, protocolName(h.Protocol))
		fmt.Fprintf(w, "checksum     %s\n", checksumNote(h))
	}
	fmt.Fprintf(w, "length       %d bytes\n", h.Length)
	for tlv := range proxyproto.All(h.TLVs) {
		printTLV(w, tlv)
	}
	fmt.Fprintf(w, "payload      %d bytes", len(d.payload()))
	if len(d.payload()) > 0 {
		fmt.Fprintf(w, " %s", usage.Quote(d.payload()))
	}
	fmt.Fprintln(w)
}

func resultNote(h *proxyproto.Header) string {
	switch {
	case h.Result == proxyproto.Local:
		return " (the peer's own connection, normally a health check)"
	case h.Result == proxyproto.Unknown:
		return " (valid, but it names no client that can be used)"
	}
	return ""
}

func protocolName(b byte) string {
	family := [...]string{"UNSPEC", "INET", "INET6", "UNIX"}
	transport := [...]string{"UNSPEC", "STREAM", "DGRAM"}
	if int(b>>4) >= len(family) || int(b&0x0f) >= len(transport) {
		return "undefined, and ignored for LOCAL"
	}
	return family[b>>4] + " " + transport[b&0x0f]
}

// checksumNote says what became of the checksum; one that is wrong never
// comes this far.
func checksumNote(h *proxyproto.Header) string {
	if h.TLVs == nil {
		return "not looked for, the block is opaque"
	}
	if _, ok := proxyproto.Find(h.TLVs, proxyproto.TypeCRC32C); ok {
		return "CRC32C correct"
	}
	return "none"
}

func printTLV(w io.Writer, tlv proxyproto.TLV) {
	fmt.Fprintf(w, "tlv          0x%02x %v, %d bytes", byte(tlv.Type), tlv.Type, len(tlv.Value))
	ssl, isSSL := proxyproto.ParseSSL(tlv.Value)
	if tlv.Type != proxyproto.TypeSSL || !isSSL {
		if said := describe(tlv); said != "" {
			fmt.Fprintf(w, ": %s", said)
		}
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, ": %s\n", sslNote(ssl))
	for sub := range proxyproto.All(ssl.TLVs) {
		fmt.Fprintf(w, "               0x%02x %s, %d bytes: %s\n", byte(sub.Type), sub.Type.SSLString(), len(sub.Value), usage.Quote(sub.Value))
	}
}

// describe returns a value in the form that is of use to a reader.
func describe(tlv proxyproto.TLV) string {
	if id, ok := vendorID(tlv); ok {
		return id
	}
	switch {
	case len(tlv.Value) == 0:
		return ""
	case tlv.Type == proxyproto.TypeNOOP:
		return "padding"
	case tlv.Type == proxyproto.TypeCRC32C:
		return fmt.Sprintf("0x%x", tlv.Value)
	}
	return usage.Quote(tlv.Value)
}

// vendorID returns the id that a cloud's TLV holds.
func vendorID(tlv proxyproto.TLV) (string, bool) {
	switch tlv.Type {
	case proxyproto.TypeAWS:
		if id, ok := proxyproto.AWSVPCEndpoint(tlv.Value); ok {
			return "VPC endpoint " + usage.Quote(id), true
		}
	case proxyproto.TypeAzure:
		if id, ok := proxyproto.AzureLinkID(tlv.Value); ok {
			return fmt.Sprintf("private endpoint LINKID %d", id), true
		}
	case proxyproto.TypeGCP:
		if id, ok := proxyproto.GCPConnectionID(tlv.Value); ok {
			return fmt.Sprintf("Private Service Connect connection %d", id), true
		}
	}
	return "", false
}

func sslNote(s proxyproto.SSL) string {
	var said []string
	if s.Client&proxyproto.ClientTLS != 0 {
		said = append(said, "client over TLS")
	}
	if s.Client&proxyproto.ClientCertConnection != 0 {
		said = append(said, "certificate on this connection")
	}
	if s.Client&proxyproto.ClientCertSession != 0 {
		said = append(said, "certificate in this session")
	}
	if rest := s.Client &^ (proxyproto.ClientTLS | proxyproto.ClientCertConnection | proxyproto.ClientCertSession); rest != 0 {
		said = append(said, fmt.Sprintf("undefined client bits 0x%02x", rest))
	}
	said = append(said, fmt.Sprintf("verify %d", s.Verify))
	if s.Authenticated() {
		said = append(said, "authenticated")
	}
	return strings.Join(said, ", ")
}

// printRefusal prints the reason and the bytes around the one that decided.
func (d *decoded) printRefusal(w io.Writer) {
	fmt.Fprintf(w, "result       error\n")
	fmt.Fprintf(w, "reason       %v\n", d.refusal.Reason)
	fmt.Fprintf(w, "offset       refused after %d of %d bytes\n", d.refusal.Offset, len(d.input))
	if d.refusal.Offset > 0 {
		line, column := excerpt(d.input, d.refusal.Offset-1)
		fmt.Fprintf(w, "bytes        %s\n%s^\n", line, strings.Repeat(" ", len("bytes        ")+column))
	}
	if hint := refusalHint(d.refusal.Reason, d.input); hint != "" {
		fmt.Fprintf(w, "hint         %s\n", hint)
	}
}

// excerpt renders the bytes around b[at], and tells the column at which b[at]
// begins. Version 1 lines and strangers' bytes are shown as text, version 2
// headers in hex.
func excerpt(b []byte, at int) (line string, column int) {
	from, to := max(0, at-48), min(len(b), at+9)
	binary := b[0] == '\r'
	if binary {
		from = max(0, at-23)
	}
	var text strings.Builder
	if from > 0 {
		text.WriteString("… ")
	}
	for i := from; i < to; i++ {
		if i == at {
			column = len([]rune(text.String()))
		}
		if binary {
			fmt.Fprintf(&text, "%02x ", b[i])
			continue
		}
		q := fmt.Sprintf("%q", b[i:i+1])
		text.WriteString(q[1 : len(q)-1])
	}
	if to < len(b) {
		text.WriteString(" …")
	}
	return strings.TrimRight(text.String(), " "), column
}

// refusalHint returns what to do about a refusal, where that is known.
func refusalHint(r proxyproto.Reason, b []byte) string {
	switch r {
	case proxyproto.ReasonBareLF:
		return `a line ends in CR LF: printf 'PROXY …\r\n' instead of echo`
	case proxyproto.ReasonIPv4InTCP6:
		return "nginx can send such lines; --v1-ipv4-in-tcp6 takes them"
	case proxyproto.ReasonTooLong:
		return "--max-header sets the longest header taken"
	case proxyproto.ReasonV1NotAccepted, proxyproto.ReasonV2NotAccepted:
		return "--accept names the versions taken"
	case proxyproto.ReasonChecksumMissing:
		return "--require-checksum is on; HAProxy sends one with proxy-v2-options crc32c"
	case proxyproto.ReasonNoSignature, proxyproto.ReasonDatagramSignature:
		return strangerHint(b)
	}
	return ""
}

// strangerHint guesses at what came instead of a header.
func strangerHint(b []byte) string {
	text := string(b[:min(len(b), 16)])
	switch {
	case strings.HasPrefix(text, "\x16\x03"):
		return "this is the beginning of TLS: the sender put no PROXY header before it"
	case strings.HasPrefix(text, "SSH-"):
		return "this is the beginning of SSH: the sender put no PROXY header before it"
	case strings.HasPrefix(text, "\x56\xec"):
		return "this is Cloudflare's Simple Proxy Protocol: --udp-header spp on a UDP forward takes it"
	case strings.Contains(text, "HTTP/") || strings.Contains(text, " /"):
		return "this is the beginning of HTTP: the sender put no PROXY header before it"
	}
	return ""
}

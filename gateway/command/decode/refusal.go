package decode

import (
	"fmt"
	"io"
	"strings"

	"unproxy/gateway/proxyproto"
)

// label is the width of the left column of the output.
const label = len("bytes        ")

// printRefusal prints why input was refused, and the bytes around the one at
// fault with a caret below it.
func printRefusal(w io.Writer, refusal *proxyproto.Error, input []byte) {
	fmt.Fprintf(w, "result       error\n")
	fmt.Fprintf(w, "reason       %v\n", refusal.Reason)
	fmt.Fprintf(w, "offset       refused after %d of %d bytes\n", refusal.Offset, len(input))
	if at := refusal.Locate(input); at >= 0 {
		line, column := excerpt(input, at)
		fmt.Fprintf(w, "bytes        %s\n%s^\n", line, strings.Repeat(" ", label+column))
	}
	if hint := refusalHint(refusal.Reason, input); hint != "" {
		fmt.Fprintf(w, "hint         %s\n", hint)
	}
}

// excerpt renders the bytes around b[at] and returns the column at which b[at]
// begins. Version 2 headers are shown in hex, everything else as text with
// escapes.
func excerpt(b []byte, at int) (line string, column int) {
	before, after, render := 48, 32, escaped
	if b[0] == proxyproto.Signature[0] {
		before, after, render = 16, 8, inHex
	}
	from, to := max(0, at-before), min(len(b), at+1+after)
	var text strings.Builder
	if from > 0 {
		text.WriteString("… ")
		column += 2
	}
	for i := from; i < to; i++ {
		shown := render(b[i])
		if i < at {
			column += len(shown)
		}
		text.WriteString(shown)
	}
	line = strings.TrimRight(text.String(), " ")
	if to < len(b) {
		line += " …"
	}
	return line, column
}

func inHex(b byte) string { return fmt.Sprintf("%02x ", b) }

func escaped(b byte) string {
	q := fmt.Sprintf("%q", []byte{b})
	return q[1 : len(q)-1]
}

// refusalHint returns how to fix a refusal, or "".
func refusalHint(r proxyproto.Reason, b []byte) string {
	switch r {
	case proxyproto.ReasonBareLF:
		return `a line ends in CR LF: printf 'PROXY …\r\n' instead of echo`
	case proxyproto.ReasonIPv4InTCP6, proxyproto.ReasonIPv4Syntax:
		if _, err := proxyproto.Decode(b, &proxyproto.Options{MixedFamilies: true}); err == nil {
			return "nginx sends such lines; --v1-mixed-families accepts them"
		}
	case proxyproto.ReasonTooLong:
		return "--max-header sets the longest header accepted"
	case proxyproto.ReasonV1NotAccepted, proxyproto.ReasonV2NotAccepted:
		return "--accept sets the versions accepted"
	case proxyproto.ReasonV1NoChecksum:
		return "--require-checksum is on; let the sender use version 2 with a checksum"
	case proxyproto.ReasonChecksumMissing:
		return "--require-checksum is on; HAProxy sends a checksum with proxy-v2-options crc32c"
	case proxyproto.ReasonNoSignature, proxyproto.ReasonDatagramSignature:
		return protocolHint(b)
	}
	return ""
}

// protocolHint returns a hint if the input looks like another known protocol.
func protocolHint(b []byte) string {
	text := string(b[:min(len(b), 16)])
	switch {
	case strings.HasPrefix(text, "\x16\x03"):
		return "this is the beginning of TLS: the sender sent no PROXY header"
	case strings.HasPrefix(text, "SSH-"):
		return "this is the beginning of SSH: the sender sent no PROXY header"
	case strings.HasPrefix(text, "\x56\xec"):
		return "this is Cloudflare's Simple Proxy Protocol: a UDP forward accepts it with --udp-header spp"
	case strings.Contains(text, "HTTP/") || strings.Contains(text, " /"):
		return "this is the beginning of HTTP: the sender sent no PROXY header"
	}
	return ""
}

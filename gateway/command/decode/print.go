package decode

import (
	"fmt"
	"io"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// writeStack prints headers as text, the outermost first.
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
		printRefusal(w, d.refusal, d.input)
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
		PrintTLV(w, tlv)
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
		return " (the peer's own connection, usually a health check)"
	case h.Result == proxyproto.Unknown:
		return " (valid, but it names no usable client)"
	}
	return ""
}

func protocolName(b byte) string {
	family := [...]string{"UNSPEC", "INET", "INET6", "UNIX"}
	transport := [...]string{"UNSPEC", "STREAM", "DGRAM"}
	if int(b>>4) >= len(family) || int(b&0x0f) >= len(transport) {
		return "undefined, ignored for LOCAL"
	}
	return family[b>>4] + " " + transport[b&0x0f]
}

// checksumNote describes the checksum. A header with a wrong checksum does not get
// here.
func checksumNote(h *proxyproto.Header) string {
	switch {
	case h.Checksum:
		return "CRC32C correct"
	case h.TLVs == nil:
		return "not checked, the block is opaque"
	}
	return "none"
}

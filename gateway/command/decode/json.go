package decode

import (
	"encoding/hex"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// headerJSON is a header in the output of decode --json. The top-level object is the
// innermost header; Outer has the others.
type headerJSON struct {
	Result      string    `json:"result"`
	Version     uint8     `json:"version,omitempty"`
	Start       int       `json:"start,omitempty"`
	Length      int       `json:"length,omitempty"`
	Source      string    `json:"source,omitempty"`
	Destination string    `json:"destination,omitempty"`
	Protocol    string    `json:"protocol,omitempty"`
	Checksum    string    `json:"checksum,omitempty"`
	TLVs        []tlvJSON `json:"tlvs,omitempty"`

	Reason  string `json:"reason,omitempty"`
	Offset  *int   `json:"offset,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Missing int    `json:"missing_bytes,omitempty"`

	Payload *int         `json:"payload_bytes,omitempty"`
	Outer   []headerJSON `json:"outer,omitempty"`
}

// tlvJSON is a TLV. Value is set if it is printable; Hex always is.
type tlvJSON struct {
	Type  string   `json:"type"`
	Name  string   `json:"name"`
	Value string   `json:"value,omitempty"`
	SSL   *sslJSON `json:"ssl,omitempty"`
	Hex   string   `json:"hex"`
}

type sslJSON struct {
	TLS                   bool      `json:"tls"`
	CertificateConnection bool      `json:"certificate_on_connection"`
	CertificateSession    bool      `json:"certificate_in_session"`
	Verify                uint32    `json:"verify"`
	Authenticated         bool      `json:"authenticated"`
	TLVs                  []tlvJSON `json:"tlvs,omitempty"`
}

// writeJSON prints headers as one object.
func writeJSON(w io.Writer, stack []decoded) error {
	last := len(stack) - 1
	object := stack[last].toJSON()
	for i := range stack[:last] {
		object.Outer = append(object.Outer, stack[i].toJSON())
	}
	return usage.PrintJSON(w, object)
}

func (d *decoded) toJSON() headerJSON {
	if d.refusal != nil {
		return headerJSON{
			Result: "error", Start: d.start, Reason: d.refusal.Reason.String(), Offset: &d.refusal.Offset,
			Hint: refusalHint(d.refusal.Reason, d.input),
		}
	}
	h := &d.header
	if h.Result == proxyproto.Incomplete {
		return headerJSON{Result: h.Result.String(), Start: d.start, Missing: proxyproto.Missing(d.input)}
	}
	payload := len(d.payload())
	object := headerJSON{
		Result: h.Result.String(), Version: h.Version, Start: d.start, Length: h.Length, Payload: &payload,
	}
	if h.Result == proxyproto.Proxy {
		object.Source, object.Destination = h.Source.String(), h.Destination.String()
	}
	if h.Version == 2 {
		object.Protocol = fmt.Sprintf("0x%02x", h.Protocol)
		object.Checksum = checksumWord(h)
	}
	for tlv := range proxyproto.All(h.TLVs) {
		object.TLVs = append(object.TLVs, newTLVJSON(tlv))
	}
	return object
}

func checksumWord(h *proxyproto.Header) string {
	switch {
	case h.Checksum:
		return "ok"
	case h.TLVs == nil:
		return "opaque"
	}
	return "absent"
}

func newTLVJSON(tlv proxyproto.TLV) tlvJSON {
	object := tlvJSON{
		Type:  fmt.Sprintf("0x%02x", byte(tlv.Type)),
		Name:  tlv.Type.String(),
		Value: textValue(tlv),
		Hex:   hex.EncodeToString(tlv.Value),
	}
	ssl, ok := proxyproto.ParseSSL(tlv.Value)
	if tlv.Type != proxyproto.TypeSSL || !ok {
		return object
	}
	object.Value = ""
	object.SSL = &sslJSON{
		TLS:                   ssl.Client&proxyproto.ClientTLS != 0,
		CertificateConnection: ssl.Client&proxyproto.ClientCertConnection != 0,
		CertificateSession:    ssl.Client&proxyproto.ClientCertSession != 0,
		Verify:                ssl.Verify,
		Authenticated:         ssl.Authenticated(),
	}
	for sub := range proxyproto.All(ssl.TLVs) {
		object.SSL.TLVs = append(object.SSL.TLVs, tlvJSON{
			Type: fmt.Sprintf("0x%02x", byte(sub.Type)), Name: sub.Type.SSLString(),
			Value: printable(sub.Value), Hex: hex.EncodeToString(sub.Value),
		})
	}
	return object
}

// textValue returns a value as text: the id in the TLV of a cloud provider, or
// printable bytes as they are. It returns "" for other values.
func textValue(tlv proxyproto.TLV) string {
	switch tlv.Type {
	case proxyproto.TypeAWS:
		if id, ok := proxyproto.AWSVPCEndpoint(tlv.Value); ok {
			return printable(id)
		}
	case proxyproto.TypeAzure:
		if id, ok := proxyproto.AzureLinkID(tlv.Value); ok {
			return fmt.Sprint(id)
		}
	case proxyproto.TypeGCP:
		if id, ok := proxyproto.GCPConnectionID(tlv.Value); ok {
			return fmt.Sprint(id)
		}
	case proxyproto.TypeCRC32C:
		return fmt.Sprintf("0x%x", tlv.Value)
	case proxyproto.TypeNOOP:
		return ""
	}
	return printable(tlv.Value)
}

// printable returns b as text, or "" if it has anything that is not printable.
func printable(b []byte) string {
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) {
			return ""
		}
		rest = rest[n:]
	}
	return string(b)
}

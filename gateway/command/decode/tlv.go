package decode

import (
	"fmt"
	"io"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// PrintTLV prints a TLV in a line, and those within an SSL TLV in lines below it.
// It escapes control bytes. An error of w is ignored.
func PrintTLV(w io.Writer, tlv proxyproto.TLV) {
	fmt.Fprintf(w, "tlv          0x%02x %v, %d bytes", byte(tlv.Type), tlv.Type, len(tlv.Value))
	ssl, isSSL := proxyproto.ParseSSL(tlv.Value)
	if tlv.Type != proxyproto.TypeSSL || !isSSL {
		if text := describe(tlv); text != "" {
			fmt.Fprintf(w, ": %s", text)
		}
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, ": %s\n", sslNote(ssl))
	for sub := range proxyproto.All(ssl.TLVs) {
		fmt.Fprintf(w, "               0x%02x %s, %d bytes: %s\n",
			byte(sub.Type), sub.Type.SSLString(), len(sub.Value), usage.Quote(sub.Value))
	}
}

// describe returns a value in readable form.
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

// vendorID describes the id in the TLV of a cloud provider.
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
	var parts []string
	if s.Client&proxyproto.ClientTLS != 0 {
		parts = append(parts, "client over TLS")
	}
	if s.Client&proxyproto.ClientCertConnection != 0 {
		parts = append(parts, "certificate on this connection")
	}
	if s.Client&proxyproto.ClientCertSession != 0 {
		parts = append(parts, "certificate in this session")
	}
	const defined = proxyproto.ClientTLS | proxyproto.ClientCertConnection | proxyproto.ClientCertSession
	if rest := s.Client &^ defined; rest != 0 {
		parts = append(parts, fmt.Sprintf("undefined client bits 0x%02x", rest))
	}
	parts = append(parts, fmt.Sprintf("verify %d", s.Verify))
	switch {
	case s.Authenticated():
		parts = append(parts, "authenticated")
	case s.HasCertificate() || s.Verify != 0:
		parts = append(parts, "not authenticated")
	}
	return strings.Join(parts, ", ")
}

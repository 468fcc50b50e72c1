package engine

import (
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// Details copies the values worth logging from a header's TLVs, given as in [proxyproto.Header]. It
// returns nil if there are none.
func Details(tlvs []byte) *record.Details {
	if len(tlvs) == 0 {
		return nil
	}
	var d record.Details
	for t := range proxyproto.All(tlvs) {
		switch t.Type {
		case proxyproto.TypeAuthority:
			d.Authority = truncate(t.Value)
		case proxyproto.TypeALPN:
			d.ALPN = truncate(t.Value)
		case proxyproto.TypeUniqueID:
			d.UniqueID = truncate(t.Value)
		case proxyproto.TypeSSL:
			sslDetails(&d, t.Value)
		case proxyproto.TypeAWS:
			if id, ok := proxyproto.AWSVPCEndpoint(t.Value); ok {
				d.AWSVPCEndpoint = truncate(id)
			}
		case proxyproto.TypeAzure:
			d.AzureLink, d.HasAzureLink = proxyproto.AzureLinkID(t.Value)
		case proxyproto.TypeGCP:
			d.GCPConnection, d.HasGCPConnection = proxyproto.GCPConnectionID(t.Value)
		}
	}
	if d == (record.Details{}) {
		return nil
	}
	return &d
}

func sslDetails(d *record.Details, value []byte) {
	ssl, ok := proxyproto.ParseSSL(value)
	if !ok {
		return
	}
	for t := range proxyproto.All(ssl.TLVs) {
		switch t.Type {
		case proxyproto.TypeSSLVersion:
			d.TLSVersion = truncate(t.Value)
		case proxyproto.TypeSSLCommonName:
			d.TLSCommonName = truncate(t.Value)
		}
	}
}

func truncate(b []byte) string { return string(b[:min(len(b), record.MaxDetail)]) }

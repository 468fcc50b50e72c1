package engine

import (
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// Details copies the values worth logging from a header's TLVs, given as in [proxyproto.Header]. It
// returns nil if there are none.
//
// The first TLV of a type counts, as in [proxyproto.Find]; the specification says nothing about
// repeated ones, and HAProxy and nginx do the same. Among TLVs of a vendor's type, which has
// subtypes, the first one of the wanted subtype counts.
func Details(tlvs []byte) *record.Details {
	if len(tlvs) == 0 {
		return nil
	}
	var d record.Details
	var seen [256]bool
	for t := range proxyproto.All(tlvs) {
		if !seen[t.Type] {
			seen[t.Type] = addDetail(&d, t)
		}
	}
	if d == (record.Details{}) {
		return nil
	}
	return &d
}

// addDetail adds a TLV, and reports whether it is the one of its type that counts.
func addDetail(d *record.Details, t proxyproto.TLV) (counts bool) {
	switch t.Type {
	case proxyproto.TypeAuthority:
		d.Authority = truncate(t.Value)
	case proxyproto.TypeALPN:
		d.ALPN = truncate(t.Value)
	case proxyproto.TypeUniqueID:
		d.UniqueID = truncate(t.Value)
	case proxyproto.TypeSSL:
		addSSL(d, t.Value)
	case proxyproto.TypeAWS:
		id, ok := proxyproto.AWSVPCEndpoint(t.Value)
		d.AWSVPCEndpoint = truncate(id)
		return ok
	case proxyproto.TypeAzure:
		d.AzureLink, d.HasAzureLink = proxyproto.AzureLinkID(t.Value)
		return d.HasAzureLink
	case proxyproto.TypeGCP:
		d.GCPConnection, d.HasGCPConnection = proxyproto.GCPConnectionID(t.Value)
		return d.HasGCPConnection
	}
	return true
}

// addSSL adds an SSL TLV.
func addSSL(d *record.Details, value []byte) {
	ssl, ok := proxyproto.ParseSSL(value)
	if !ok {
		return
	}
	version, _ := proxyproto.Find(ssl.TLVs, proxyproto.TypeSSLVersion)
	name, _ := proxyproto.Find(ssl.TLVs, proxyproto.TypeSSLCommonName)
	d.TLSVersion, d.TLSCommonName = truncate(version), truncate(name)
	d.TLSVerify, d.TLSVerified = ssl.Verify, ssl.Authenticated()
	d.HasTLSVerify = ssl.HasCertificate() || ssl.Verify != 0 || len(name) > 0
}

func truncate(b []byte) string { return string(b[:min(len(b), record.MaxDetail)]) }

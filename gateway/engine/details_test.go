package engine

import (
	"bytes"
	"encoding/hex"
	"testing"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// region encodes TLVs.
func region(t *testing.T, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	h, err := proxyproto.AppendV2(nil, &proxyproto.Message{TLVs: tlvs})
	if err != nil {
		t.Fatal(err)
	}
	return h[16:]
}

func sslTLV(t *testing.T, s proxyproto.SSL, within ...proxyproto.TLV) proxyproto.TLV {
	t.Helper()
	tlv, err := proxyproto.SSLTLV(s, within...)
	if err != nil {
		t.Fatal(err)
	}
	return tlv
}

func commonName(s string) proxyproto.TLV {
	return proxyproto.TLV{Type: proxyproto.TypeSSLCommonName, Value: []byte(s)}
}

// A name in a certificate is the client's only if the load balancer verified the certificate
// (specification, section 2.2.6).
func TestCommonNameIsVerifiedOrMarked(t *testing.T) {
	const tls, connection, session = proxyproto.ClientTLS, proxyproto.ClientCertConnection, proxyproto.ClientCertSession
	reported, err := hex.DecodeString("200017" + "07" + "00000012" + "210007544c5376312e33" + "220005616c696365")
	if err != nil {
		t.Fatal(err)
	}
	unverified := record.Details{TLSCommonName: "alice", HasTLSVerify: true}
	verified := record.Details{TLSCommonName: "alice", HasTLSVerify: true, TLSVerified: true}
	failed := unverified
	failed.TLSVerify = 18
	for _, row := range []struct {
		name   string
		client byte
		verify uint32
		within []proxyproto.TLV
		want   *record.Details
	}{
		{"verified on this connection", tls | connection, 0, []proxyproto.TLV{commonName("alice")}, &verified},
		{"verified in this session", tls | session, 0, []proxyproto.TLV{commonName("alice")}, &verified},
		{"self-signed", tls | connection | session, 18, []proxyproto.TLV{commonName("alice")}, &failed},
		{"a name without a certificate", tls, 0, []proxyproto.TLV{commonName("alice")}, &unverified},
		{"not even TLS", 0, 0, []proxyproto.TLV{commonName("alice")}, &unverified},
		{"a certificate without a name", tls | connection, 0, nil, &record.Details{HasTLSVerify: true, TLSVerified: true}},
		{"an error without a certificate", tls, 1, nil, &record.Details{HasTLSVerify: true, TLSVerify: 1}},
		{"no certificate", tls, 0, nil, nil},
		{"the first of two names", tls | connection, 0, []proxyproto.TLV{commonName("alice"), commonName("bob")}, &verified},
	} {
		got := Details(region(t, sslTLV(t, proxyproto.SSL{Client: row.client, Verify: row.verify}, row.within...)))
		if (got == nil) != (row.want == nil) || got != nil && *got != *row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
	failed.TLSVersion = "TLSv1.3"
	if got := Details(reported); got == nil || *got != failed {
		t.Errorf("reported: %+v, want %+v", got, failed)
	}
}

// The first TLV of a type counts for every reader: for the log as for proxyproto.Find. An empty one
// counts, too. Two SSL TLVs are not mixed: the name of one is not verified by the other.
func TestFirstOfRepeatedTLVsCounts(t *testing.T) {
	for _, row := range []struct {
		kind proxyproto.Type
		of   func(*record.Details) string
	}{
		{proxyproto.TypeAuthority, func(d *record.Details) string { return d.Authority }},
		{proxyproto.TypeALPN, func(d *record.Details) string { return d.ALPN }},
		{proxyproto.TypeUniqueID, func(d *record.Details) string { return d.UniqueID }},
	} {
		for _, values := range [][]string{{"one", "two"}, {"two", "one"}, {"", "two"}, {"one", "", "two"}} {
			tlvs := []proxyproto.TLV{{Type: proxyproto.TypeNOOP}}
			for _, v := range values {
				tlvs = append(tlvs, proxyproto.TLV{Type: row.kind, Value: []byte(v)})
			}
			all := region(t, tlvs...)
			found, _ := proxyproto.Find(all, row.kind)
			got := ""
			if d := Details(all); d != nil {
				got = row.of(d)
			}
			if got != values[0] || string(found) != values[0] {
				t.Errorf("%v %q: %q in the log, %q found", row.kind, values, got, found)
			}
		}
	}

	good := sslTLV(t, proxyproto.SSL{Client: 3}, commonName("alice"))
	bad := sslTLV(t, proxyproto.SSL{Client: 3, Verify: 18}, commonName("mallory"))
	nameless := sslTLV(t, proxyproto.SSL{Client: 3})
	for _, row := range []struct {
		tlvs []proxyproto.TLV
		want record.Details
	}{
		{[]proxyproto.TLV{good, bad}, record.Details{TLSCommonName: "alice", HasTLSVerify: true, TLSVerified: true}},
		{[]proxyproto.TLV{bad, good}, record.Details{TLSCommonName: "mallory", HasTLSVerify: true, TLSVerify: 18}},
		{[]proxyproto.TLV{nameless, bad}, record.Details{HasTLSVerify: true, TLSVerified: true}},
	} {
		if got := Details(region(t, row.tlvs...)); got == nil || *got != row.want {
			t.Errorf("%+v, want %+v", got, row.want)
		}
	}
}

// A vendor's type has subtypes: the first TLV with the documented value counts.
func TestFirstOfRepeatedVendorTLVsCounts(t *testing.T) {
	vendor := func(kind proxyproto.Type, value string) proxyproto.TLV {
		return proxyproto.TLV{Type: kind, Value: []byte(value)}
	}
	got := Details(region(t,
		vendor(proxyproto.TypeAWS, "\x02other"), vendor(proxyproto.TypeAWS, "\x01vpce-1"), vendor(proxyproto.TypeAWS, "\x01vpce-2"),
		vendor(proxyproto.TypeAzure, "\x01\x00\x00\x00\x00"), vendor(proxyproto.TypeAzure, "\x01\x07\x00\x00\x00"),
		vendor(proxyproto.TypeGCP, "short"), vendor(proxyproto.TypeGCP, "\x00\x00\x00\x00\x00\x00\x00\x09"),
		vendor(proxyproto.TypeGCP, string(bytes.Repeat([]byte{1}, 8))),
	))
	want := record.Details{AWSVPCEndpoint: "vpce-1", HasAzureLink: true, HasGCPConnection: true, GCPConnection: 9}
	if got == nil || *got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

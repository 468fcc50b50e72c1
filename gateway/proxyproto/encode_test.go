package proxyproto

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestAppendV1(t *testing.T) {
	mapped := netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")
	for _, row := range []struct {
		source, destination netip.AddrPort
		want                string
	}{
		{client4, service4, v1Line},
		{client6, service6, "PROXY TCP6 2001:db8::1 2001:db8:ffff::2 56324 443\r\n"},
		{client4, service6, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8:ffff::2 56324 443\r\n"},
		{mapped, service4, "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 443\r\n"},
		{netip.MustParseAddrPort("[fe80::1%eth0]:1"), service6, "PROXY TCP6 fe80::1 2001:db8:ffff::2 1 443\r\n"},
		{netip.AddrPort{}, service4, "PROXY UNKNOWN\r\n"},
		{client4, netip.AddrPort{}, "PROXY UNKNOWN\r\n"},
	} {
		if got := AppendV1([]byte("> "), row.source, row.destination); string(got) != "> "+row.want {
			t.Errorf("AppendV1(%v, %v) = %q, want %q", row.source, row.destination, got, row.want)
		}
	}
}

// TestAppendV2AgainstVectors encodes the decoded vectors and expects their
// original bytes.
func TestAppendV2AgainstVectors(t *testing.T) {
	written := 0
	for _, v := range vectors(t) {
		if v.Expect.Outcome != "proxy" || v.Expect.Version != 2 {
			continue
		}
		b := v.bytes(t)
		h, err := Decode(b, v.options())
		if err != nil {
			t.Fatal(v.Name, err)
		}
		m := Message{Command: CommandProxy, Source: h.Source, Destination: h.Destination, Datagram: v.Kind == "udp"}
		for tlv := range All(h.TLVs) {
			m.TLVs = append(m.TLVs, tlv)
		}
		got := mustV2(t, m)
		if !bytes.Equal(got, b[:h.Length]) {
			t.Errorf("%s: wrote %.80x, want %.80x", v.Name, got, b[:h.Length])
		}
		written++
	}
	if written == 0 {
		t.Error("no vector was encoded")
	}
}

func TestAppendV2RoundTrip(t *testing.T) {
	for _, m := range []Message{
		{},
		{Checksum: true},
		{Command: CommandProxy},
		{Command: CommandProxy, Source: client4},
		{Command: CommandProxy, Destination: service4},
		{Command: CommandProxy, Source: client4, Destination: service4},
		{Command: CommandProxy, Source: client6, Destination: service6, Checksum: true},
		{Command: CommandProxy, Source: client4, Destination: service6, TLVs: []TLV{authority}},
		{Command: CommandProxy, Source: client4, Destination: service4, Checksum: true,
			TLVs: []TLV{authority, {TypeNOOP, nil}}},
		{Command: CommandProxy, Source: client4, Destination: service4, Datagram: true},
		{Command: CommandProxy, Source: client6, Destination: service6, Datagram: true, Checksum: true},
	} {
		const payload = "payload"
		b := append(mustV2(t, m), payload...)
		h, err := Decode(b, &Options{Datagram: m.Datagram, RequireChecksum: m.Checksum})
		if err != nil {
			t.Errorf("%+v: %v", m, err)
			continue
		}
		want := Proxy
		switch {
		case m.Command == CommandLocal:
			want = Local
		case !m.Source.IsValid() || !m.Destination.IsValid():
			want = Unknown
		}
		if h.Result != want || string(b[h.Length:]) != payload || h.Protocol != m.protocol() {
			t.Errorf("%+v: %+v", m, h)
		}
		if want == Proxy && (unmap(h.Source) != m.Source || unmap(h.Destination) != m.Destination) {
			t.Errorf("%+v: from %v to %v", m, h.Source, h.Destination)
		}
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func TestAppendV2TooLong(t *testing.T) {
	const room = 65535 - inetLength
	for _, row := range []struct {
		value    int
		checksum bool
		ok       bool
	}{
		{room - 3, false, true},
		{room - 2, false, false},
		{room - 3 - 7, true, true},
		{room - 3 - 6, true, false},
		{65536, false, false},
	} {
		m := Message{
			Command: CommandProxy, Source: client4, Destination: service4,
			TLVs: []TLV{{TypeNOOP, make([]byte, row.value)}}, Checksum: row.checksum,
		}
		b, err := AppendV2([]byte("> "), &m)
		if (err == nil) != row.ok {
			t.Errorf("value of %d bytes: %v", row.value, err)
		}
		if err != nil && string(b) != "> " {
			t.Errorf("AppendV2 failed and still appended %d bytes", len(b)-2)
		}
		if row.ok && answer(Decode(b[2:], nil)) != "proxy" {
			t.Errorf("value of %d bytes: %s", row.value, answer(Decode(b[2:], nil)))
		}
	}
}

func TestSSL(t *testing.T) {
	within := []TLV{{TypeSSLVersion, []byte("TLSv1.3")}, {TypeSSLCommonName, []byte("client")}, {TypeSSLClientCert, nil}}
	tlv, err := SSLTLV(SSL{Client: ClientTLS | ClientCertSession, Verify: 7}, within...)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := ParseSSL(tlv.Value)
	if !ok || tlv.Type != TypeSSL || s.Client != 5 || s.Verify != 7 || s.Authenticated() {
		t.Errorf("%+v %v", s, ok)
	}
	i := 0
	for got := range All(s.TLVs) {
		if got.Type != within[i].Type || !bytes.Equal(got.Value, within[i].Value) {
			t.Errorf("%d: %+v", i, got)
		}
		i++
	}
	if i != len(within) {
		t.Errorf("%d TLVs within, want %d", i, len(within))
	}
	if _, err := SSLTLV(SSL{}, TLV{TypeSSLClientCert, make([]byte, 65536)}); err == nil {
		t.Error("a value of 65536 bytes was accepted")
	}
	if _, err := SSLTLV(SSL{}, TLV{TypeSSLClientCert, make([]byte, 65535)}); err != nil {
		t.Error(err)
	}
	if _, ok := ParseSSL(make([]byte, 4)); ok {
		t.Error("a value of 4 bytes was accepted")
	}
	if s, ok := ParseSSL([]byte{1, 0, 0, 0, 2}); !ok || s.Client != 1 || s.Verify != 2 || len(s.TLVs) != 0 {
		t.Errorf("a value of 5 bytes: %+v, %v", s, ok)
	}
	for _, row := range []struct {
		s    SSL
		want bool
	}{
		{SSL{Client: ClientTLS}, false}, // Verify is 0 because there is no certificate
		{SSL{Client: ClientTLS | ClientCertConnection}, true},
		{SSL{Client: ClientTLS | ClientCertSession}, true},
		{SSL{Client: ClientTLS | ClientCertConnection, Verify: 1}, false},
	} {
		if row.s.Authenticated() != row.want {
			t.Errorf("%+v: authenticated %v", row.s, !row.want)
		}
	}
}

// The first TLV of a type counts, and one without a value is not none.
func TestFind(t *testing.T) {
	region, err := appendTLVs(nil, []TLV{{TypeNOOP, []byte("x")}, {TypeALPN, []byte("h2")}, {TypeALPN, []byte("h3")}, {TypeNetNS, nil}})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		t    Type
		want string
		ok   bool
	}{{TypeALPN, "h2", true}, {TypeNOOP, "x", true}, {TypeNetNS, "", true}, {TypeSSL, "", false}} {
		if value, ok := Find(region, row.t); string(value) != row.want || ok != row.ok {
			t.Errorf("%v: %q, %v", row.t, value, ok)
		}
	}
	if value, ok := Find(nil, TypeALPN); ok {
		t.Errorf("nothing has %q", value)
	}
}

func TestVendorValues(t *testing.T) {
	if id, ok := AWSVPCEndpoint([]byte("\x01vpce-08d2bf15fac5001c9")); !ok || string(id) != "vpce-08d2bf15fac5001c9" {
		t.Errorf("AWS: %q %v", id, ok)
	}
	if id, ok := AWSVPCEndpoint([]byte("\x01v")); !ok || string(id) != "v" {
		t.Errorf("AWS: %q %v", id, ok)
	}
	if id, ok := AzureLinkID([]byte{1, 0x78, 0x56, 0x34, 0x12}); !ok || id != 0x12345678 {
		t.Errorf("Azure: %x %v", id, ok)
	}
	if id, ok := GCPConnectionID([]byte{1, 2, 3, 4, 5, 6, 7, 8}); !ok || id != 0x0102030405060708 {
		t.Errorf("GCP: %x %v", id, ok)
	}
	for _, value := range [][]byte{nil, {1}, {2, 'x'}, {2, 0, 0, 0, 0}, make([]byte, 9)} {
		endpoint, aws := AWSVPCEndpoint(value)
		link, azure := AzureLinkID(value)
		connection, gcp := GCPConnectionID(value)
		if aws || azure || gcp || endpoint != nil || link != 0 || connection != 0 {
			t.Errorf("%x was accepted: AWS %v, Azure %v, GCP %v", value, aws, azure, gcp)
		}
	}
}

func TestTypeNames(t *testing.T) {
	for _, row := range []struct {
		t           Type
		name, inSSL string
	}{
		{0x01, "ALPN", "RESERVED"},
		{0x02, "AUTHORITY", "RESERVED"},
		{0x03, "CRC32C", "RESERVED"},
		{0x04, "NOOP", "RESERVED"},
		{0x05, "UNIQUE_ID", "RESERVED"},
		{0x06, "RESERVED", "RESERVED"},
		{0x20, "SSL", "RESERVED"},
		{0x21, "RESERVED", "SSL_VERSION"},
		{0x22, "RESERVED", "SSL_CN"},
		{0x23, "RESERVED", "SSL_CIPHER"},
		{0x24, "RESERVED", "SSL_SIG_ALG"},
		{0x25, "RESERVED", "SSL_KEY_ALG"},
		{0x26, "RESERVED", "SSL_GROUP"},
		{0x27, "RESERVED", "SSL_SIG_SCHEME"},
		{0x28, "RESERVED", "SSL_CLIENT_CERT"},
		{0x29, "RESERVED", "RESERVED"},
		{0x30, "NETNS", "RESERVED"},
		{0xe0, "GCP", "RESERVED"},
		{0xe1, "ALIBABA", "RESERVED"},
		{0xdf, "RESERVED", "RESERVED"},
		{0xe2, "CUSTOM", "RESERVED"},
		{0xef, "CUSTOM", "RESERVED"},
		{0xea, "AWS", "RESERVED"},
		{0xee, "AZURE", "RESERVED"},
		{0xf0, "EXPERIMENT", "RESERVED"},
		{0xf7, "EXPERIMENT", "RESERVED"},
		{0xf8, "FUTURE", "RESERVED"},
		{0xff, "FUTURE", "RESERVED"},
	} {
		if row.t.String() != row.name || row.t.SSLString() != row.inSSL {
			t.Errorf("0x%02x: %s, within SSL %s", byte(row.t), row.t, row.t.SSLString())
		}
	}
}

// Every name is read back as the type that has it; the ranges are not types.
func TestParseType(t *testing.T) {
	for _, name := range TypeNames() {
		for _, written := range []string{name, strings.ToLower(name)} {
			typ, within, ok := ParseType(written)
			if back := map[bool]string{false: typ.String(), true: typ.SSLString()}[within]; !ok || back != name {
				t.Errorf("%s is read as 0x%02x, within SSL %v, %v", written, byte(typ), within, ok)
			}
		}
	}
	for _, name := range []string{"", "RESERVED", "CUSTOM", "EXPERIMENT", "FUTURE", "0x02", "ssl_"} {
		if typ, within, ok := ParseType(name); ok || typ != 0 || within {
			t.Errorf("%q is read as %v, within SSL %v, %v", name, typ, within, ok)
		}
	}
	if n := len(TypeNames()); n != 11+8 {
		t.Errorf("%d names", n)
	}
}

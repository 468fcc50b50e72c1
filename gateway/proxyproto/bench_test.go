package proxyproto

import "testing"

func BenchmarkDecode(b *testing.B) {
	ssl, err := SSLTLV(SSL{Client: ClientTLS}, TLV{TypeSSLVersion, []byte("TLSv1.3")})
	if err != nil {
		b.Fatal(err)
	}
	for _, row := range []struct {
		name  string
		input []byte
	}{
		{"v1/TCP4", []byte(v1Line)},
		{"v1/TCP6", AppendV1(nil, client6, service6)},
		{"v2/INET", mustV2(b, Message{Command: CommandProxy, Source: client4, Destination: service4})},
		{"v2/INET6", mustV2(b, Message{Command: CommandProxy, Source: client6, Destination: service6})},
		{"v2/TLVs", mustV2(b, Message{
			Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{authority, ssl},
		})},
		{"v2/TLVs+CRC32C", mustV2(b, Message{
			Command: CommandProxy, Source: client4, Destination: service4, TLVs: []TLV{authority, ssl}, Checksum: true,
		})},
		{"v2/incomplete", mustV2(b, Message{Command: CommandProxy, Source: client4, Destination: service4})[:20]},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			var o Options
			for b.Loop() {
				if _, err := Decode(row.input, &o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package demo

import (
	"fmt"
	"net/netip"

	"unproxy/gateway/config"
	"unproxy/gateway/proxyproto"
)

// The clients and destinations in the headers, from the ranges reserved for
// documentation (RFC 5737, RFC 3849).
var (
	client4      = netip.MustParseAddrPort("203.0.113.9:40001")
	client6      = netip.MustParseAddrPort("[2001:db8::9]:40002")
	destination4 = netip.MustParseAddrPort("198.51.100.7:25")
	destination6 = netip.MustParseAddrPort("[2001:db8::25]:25")
)

// hello is the payload of the clients.
const hello = "HELO\r\n"

// playHeaders plays the first part: the gateway strips valid headers from trusted
// peers and refuses everything else.
func playHeaders(out *screen) error {
	server, err := startBackend("127.0.0.1")
	if err != nil {
		return err
	}
	defer server.listener.Close()
	forward := fmt.Sprintf("127.0.0.1:0=%s", server.address())
	on, err := startStage(forward, config.Values{"trust": {"127.0.0.1/32"}})
	if err != nil {
		return err
	}
	defer on.close()
	out.print("1. The gateway strips the header and forwards the payload; it trusts only the load balancer\n\n")
	out.print("  backend   %s, which does not speak the PROXY protocol\n", server.address())
	out.print("  gateway   unproxy --forward %s=%s --trust 127.0.0.1/32\n\n", on.at, server.address())
	scenes, err := headerScenes()
	if err != nil {
		return err
	}
	out.heading()
	failed, err := playAll(out, on, server, scenes)
	if err != nil {
		return err
	}
	out.print("\n  %d of %d as expected. The backend sees the gateway's address, the log has the client's.\n"+
		"  In transparent mode the backend sees it, too.\n", len(scenes)-failed, len(scenes))
	return failure(failed, len(scenes))
}

// headerScenes returns the scenes of the first part.
func headerScenes() ([]scene, error) {
	v2, err := headerV2(client6, destination6)
	if err != nil {
		return nil, err
	}
	local, err := proxyproto.AppendV2(nil, &proxyproto.Message{})
	if err != nil {
		return nil, err
	}
	detailed, err := detailedHeader()
	if err != nil {
		return nil, err
	}
	corrupt := append([]byte(nil), detailed...)
	corrupt[16] ^= 1 // the first bit of the client's address
	v1 := proxyproto.AppendV1(nil, client4, destination4)
	good := func(client string, more ...[2]string) expectation {
		logged := append(more, [2]string{"outcome", "ok"}, [2]string{"client", client})
		return expectation{seen: "127.0.0.1", payload: hello, logged: logged}
	}
	refused := func(outcome string) expectation {
		return expectation{logged: [][2]string{{"outcome", outcome}, {"backend", ""}}}
	}
	smuggled := good(client4.String())
	smuggled.payload = string(v1) + hello
	health := good(thePeer)
	health.payload = ""
	invalid := []byte("PROXY TCP4 203.0.113.999 198.51.100.7 40001 25\r\n")
	return []scene{
		{what: "v1 header, then HELO", parts: then(v1, hello), want: good(client4.String())},
		{what: "v2 header, IPv6 client", parts: then(v2, hello), want: good(client6.String())},
		{what: "v2 with authority, unique ID, TLS name, AWS endpoint and checksum", parts: then(detailed, hello),
			want: good(client4.String(), [2]string{"authority", "mail.example.com"}, [2]string{"unique_id", "req-7"},
				[2]string{"tls_cn", "alice"}, [2]string{"aws_vpce", "vpce-0a1b2c3d"})},
		{what: "v1 header, each byte in its own segment",
			parts: append(oneByOne(v1), []byte(hello)), want: good(client4.String())},
		{what: "v2 LOCAL: the load balancer's own health check", parts: [][]byte{local}, want: health},
		{what: "v1 UNKNOWN: the client is not named", parts: then([]byte("PROXY UNKNOWN\r\n"), hello), want: good(thePeer)},
		{what: "a header, then a forged one from the client: that is payload",
			parts: then(v1, string(v1)+hello), want: smuggled},
		{what: "no header: GET / HTTP/1.1", parts: then([]byte("GET / HTTP/1.1\r\n\r\n"), ""), want: refused("not_proxy")},
		{what: "v1 with an invalid address: 203.0.113.999", parts: then(invalid, hello), want: refused("malformed")},
		{what: "v2 with a flipped bit", parts: then(corrupt, hello), want: refused("bad_checksum")},
		{what: "half a header, then FIN", parts: [][]byte{v1[:20]}, want: refused("truncated")},
		{what: "a valid header from 127.0.0.2, which is not trusted", from: netip.MustParseAddr("127.0.0.2"),
			parts: then(v1, hello), want: refused("untrusted")},
	}, nil
}

// then returns the header as one segment and the payload as the next.
func then(header []byte, payload string) [][]byte {
	if payload == "" {
		return [][]byte{header}
	}
	return [][]byte{header, []byte(payload)}
}

// headerV2 returns a plain v2 header.
func headerV2(client, destination netip.AddrPort) ([]byte, error) {
	return proxyproto.AppendV2(nil, &proxyproto.Message{
		Command: proxyproto.CommandProxy, Source: client, Destination: destination,
	})
}

// detailedHeader returns a v2 header of a load balancer that terminates TLS.
func detailedHeader() ([]byte, error) {
	tls, err := proxyproto.SSLTLV(proxyproto.SSL{Client: proxyproto.ClientTLS | proxyproto.ClientCertConnection},
		proxyproto.TLV{Type: proxyproto.TypeSSLVersion, Value: []byte("TLSv1.3")},
		proxyproto.TLV{Type: proxyproto.TypeSSLCommonName, Value: []byte("alice")})
	if err != nil {
		return nil, err
	}
	return proxyproto.AppendV2(nil, &proxyproto.Message{
		Command: proxyproto.CommandProxy, Source: client4, Destination: destination4, Checksum: true,
		TLVs: []proxyproto.TLV{
			{Type: proxyproto.TypeAuthority, Value: []byte("mail.example.com")},
			{Type: proxyproto.TypeUniqueID, Value: []byte("req-7")},
			tls,
			{Type: proxyproto.TypeAWS, Value: []byte("\x01vpce-0a1b2c3d")},
		},
	})
}

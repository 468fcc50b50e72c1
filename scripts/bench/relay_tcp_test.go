package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"unproxy/gateway/proxyproto"
)

var (
	testClient      = netip.MustParseAddrPort("198.18.3.4:40001")
	testDestination = netip.MustParseAddrPort("127.0.0.1:2000")
)

// headers returns a header of each kind, by name.
func testHeaders(t *testing.T) map[string][]byte {
	t.Helper()
	message := &proxyproto.Message{Command: proxyproto.CommandProxy, Source: testClient, Destination: testDestination}
	v2, err := proxyproto.AppendV2(nil, message)
	if err != nil {
		t.Fatal(err)
	}
	message.Checksum = true
	withTLV, err := proxyproto.AppendV2(nil, message)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"v1": proxyproto.AppendV1(nil, testClient, testDestination), "v2": v2,
		"v2 with a TLV": withTLV}
}

func TestReadHeader(t *testing.T) {
	for name, header := range testHeaders(t) {
		in := bufio.NewReader(bytes.NewReader(append(header, "payload"...)))
		client, err := readHeader(in)
		if err != nil || client.AddrPort().Addr().Unmap() != testClient.Addr() || client.Port != int(testClient.Port()) {
			t.Errorf("%s: %v, %v", name, client, err)
		}
		if rest, err := io.ReadAll(in); err != nil || string(rest) != "payload" {
			t.Errorf("%s leaves %q, %v", name, rest, err)
		}
	}
	for _, bad := range []string{"", "GET / HTTP/1.0\r\n\r\n", "PROXY TCP4 1.2.3.4\r\n", "PROXY TCP6 ::1 ::2 1 2\r\n"} {
		if client, err := readHeader(bufio.NewReader(bytes.NewReader([]byte(bad)))); err == nil {
			t.Errorf("%q names %v", bad, client)
		}
	}
}

// The relay strips the header and forwards the rest, and a FIN for each direction.
func TestRelayStripsHeaderAndForwardsHalfCloses(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c)
				c.Write(append([]byte("got "), all...))
			}()
		}
	}()
	for name, header := range testHeaders(t) {
		if got := throughRelay(t, backend.Addr().String(), append(header, "payload"...)); got != "got payload" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// throughRelay sends bytes and a FIN through the relay, and returns the response.
func throughRelay(t *testing.T, backend string, b []byte) string {
	t.Helper()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	client, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := front.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go relayOne(accepted.(*net.TCPConn), backend, false)
	if _, err := client.Write(b); err != nil {
		t.Fatal(err)
	}
	client.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

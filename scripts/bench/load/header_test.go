package load

import (
	"net/netip"
	"testing"

	"unproxy/gateway/proxyproto"
	"unproxy/integration_test/allocations"
)

func TestHeaders(t *testing.T) {
	client, gateway := netip.MustParseAddrPort("198.18.3.4:40001"), netip.MustParseAddrPort("127.0.0.1:2000")
	for _, row := range []struct {
		header  Header
		version uint8
		options proxyproto.Options
		tlvs    int
	}{
		{V1, 1, proxyproto.Options{}, 0},
		{V2, 2, proxyproto.Options{}, 0},
		{V2TLVs, 2, proxyproto.Options{RequireChecksum: true}, len(tlvs) + 1},
	} {
		b := append(appendHeader(nil, row.header, client, gateway), "payload"...)
		h, err := proxyproto.Decode(b, &row.options)
		if err != nil {
			t.Errorf("header %d: %v", row.header, err)
			continue
		}
		if h.Version != row.version || h.Source != client || h.Destination != gateway || string(b[h.Length:]) != "payload" {
			t.Errorf("header %d decodes to %+v", row.header, h)
		}
		count := 0
		for range proxyproto.All(h.TLVs) {
			count++
		}
		if count != row.tlvs {
			t.Errorf("header %d has %d TLVs, not %d", row.header, count, row.tlvs)
		}
	}
	if b := appendHeader([]byte("x"), NoHeader, client, gateway); string(b) != "x" {
		t.Errorf("no header is %q", b)
	}
}

func TestClientsDoNotRepeat(t *testing.T) {
	var c Clients
	seen := map[netip.AddrPort]bool{}
	for n := range 3 * clientAddresses {
		a := c.Next()
		if seen[a] {
			t.Fatalf("client %d, %v, is repeated", n, a)
		}
		seen[a] = true
		if !ClientNetwork.Contains(a.Addr()) || a.Port() < 1024 {
			t.Fatalf("client %d is %v", n, a)
		}
	}
}

// An address gets every port before one repeats: the number of ports and the step have no
// common factor.
func TestClientsUseAllPorts(t *testing.T) {
	seen := map[uint16]bool{}
	for turn := range uint64(clientPorts) {
		c := Clients{next: 7 + turn*clientAddresses}
		seen[c.Next().Port()] = true
	}
	if len(seen) != clientPorts {
		t.Errorf("an address has %d ports, not %d", len(seen), clientPorts)
	}
}

func TestHeadersDoNotAllocate(t *testing.T) {
	var c Clients
	b, gateway := make([]byte, 0, headerSpace), netip.MustParseAddrPort("127.0.0.1:2000")
	for _, h := range []Header{V1, V2, V2TLVs} {
		if n := allocations.PerRun(100, func() { appendHeader(b, h, c.Next(), gateway) }); n > 0 {
			t.Errorf("header %d allocates %v times", h, n)
		}
	}
}

package transparent

import (
	"math/rand/v2"
	"net/netip"
)

// The networks of test clients. They are reserved for documentation (RFC 5737,
// RFC 3849), so no real client is in them.
var (
	testNetwork4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2}), 24)
	testNetwork6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8}), 32)
)

// firstTestPort is the lowest port of a test client.
const firstTestPort = 1 << 15

// TestClient returns a random address of the documentation networks, from which
// to test whether a backend's replies return. It is safe for concurrent use.
func TestClient(v6 bool) netip.AddrPort {
	port := uint16(firstTestPort + rand.IntN(1<<16-firstTestPort))
	if !v6 {
		a := testNetwork4.Addr().As4()
		a[3] = byte(1 + rand.IntN(254)) // without the network and broadcast addresses
		return netip.AddrPortFrom(netip.AddrFrom4(a), port)
	}
	a := testNetwork6.Addr().As16()
	for i := 8; i < len(a); i++ {
		a[i] = byte(1 + rand.IntN(255))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// TestNetwork returns the network that the clients of [TestClient] are in.
func TestNetwork(v6 bool) netip.Prefix {
	if v6 {
		return testNetwork6
	}
	return testNetwork4
}

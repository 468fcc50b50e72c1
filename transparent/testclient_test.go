package transparent_test

import (
	"net/netip"
	"testing"

	"unproxy/transparent"
)

// Test clients are hosts of the networks for documentation, with ports that no service
// listens on.
func TestTestClients(t *testing.T) {
	for v6, want := range map[bool]string{false: "192.0.2.0/24", true: "2001:db8::/32"} {
		network := transparent.TestNetwork(v6)
		if network != netip.MustParsePrefix(want) {
			t.Errorf("the network is %v, want %v", network, want)
		}
		seen := map[netip.Addr]bool{}
		for range 5000 {
			c := transparent.TestClient(v6)
			seen[c.Addr()] = true
			last := c.Addr().AsSlice()[c.Addr().BitLen()/8-1]
			if !network.Contains(c.Addr()) || c.Port() < 32768 || last == 0 || !v6 && last == 255 || v6 && c.Addr().As16()[8] == 0 {
				t.Fatalf("%v", c)
			}
		}
		if most := 254; !v6 && len(seen) != most || v6 && len(seen) <= most {
			t.Errorf("%d clients in %v", len(seen), network)
		}
	}
}

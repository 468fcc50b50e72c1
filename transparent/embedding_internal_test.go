package transparent

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The first look at an address misses no form of the table.
func TestMayEmbedMissesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for i := range embeddings {
		e := &embeddings[i]
		for range 2000 {
			b := e.prefix.Addr().As16()
			for bit := e.prefix.Bits(); bit < 128; bit++ {
				b[bit/8] |= byte(random.IntN(2)) << (7 - bit%8)
			}
			if id := e.identifier; id != 0 {
				b[8], b[9], b[10], b[11] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
			}
			if !e.matches(netip.AddrFrom16(b), &b) || !mayEmbed(&b) {
				t.Fatalf("%v has the form %d: matches %v, may embed %v", netip.AddrFrom16(b), i,
					e.matches(netip.AddrFrom16(b), &b), mayEmbed(&b))
			}
		}
	}
}

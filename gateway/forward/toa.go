package forward

import (
	"net/netip"

	"unproxy/transparent/toa"
)

// TOA says how clients' addresses travel in a TCP option; see package
// [unproxy/transparent/toa]. The zero value is off.
type TOA struct {
	On     bool
	Format toa.Format
	// Sources are this host's addresses from which it connects, in turn. For a family
	// without any, the kernel chooses the address. Connections that carry no client,
	// such as LOCAL ones, do not come from them: a backend's host that requires the
	// option of these addresses would drop those.
	Sources []netip.Addr
}

// Source returns the address of a family that is turn-th in order, which may be any
// number, or the zero Addr. It does not allocate.
func (t *TOA) Source(is4 bool, turn uint64) netip.Addr {
	n := uint64(0)
	for _, a := range t.Sources {
		if a.Is4() == is4 {
			n++
		}
	}
	if n > 0 {
		turn %= n
	}
	for _, a := range t.Sources {
		if a.Is4() != is4 {
			continue
		}
		if turn == 0 {
			return a
		}
		turn--
	}
	return netip.Addr{}
}

// ConnectsAsClient reports whether connections to the backend are made from the
// client's own address, which needs privileges and a return path.
func (f *Forward) ConnectsAsClient() bool { return f.Transparent && !f.TOA.On }

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
	// Sources are this host's addresses from which it connects: every address of each
	// prefix, in turn. For a family without any, the kernel chooses the address.
	// Connections that carry no client, such as LOCAL ones, do not come from them: a
	// backend's host that requires the option of these addresses would drop those.
	Sources []netip.Prefix
}

// ConnectsAsClient reports whether connections to the backend are made from the
// client's own address, which needs privileges and a return path.
func (f *Forward) ConnectsAsClient() bool { return f.Transparent && !f.TOA.On }

package forward

import "unproxy/transparent/toa"

// TOA says how clients' addresses travel in a TCP option; see package
// [unproxy/transparent/toa]. The zero value is off.
type TOA struct {
	On     bool
	Format toa.Format
}

// ConnectsAsClient reports whether connections to the backend are made from the
// client's own address, which needs privileges and a return path.
func (f *Forward) ConnectsAsClient() bool { return f.Transparent && !f.TOA.On }

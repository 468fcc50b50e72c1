package daemon

import (
	"slices"
	"testing"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
	"unproxy/transparent"
)

// Each kind of forward keeps what its sockets need (capabilities(7), ip(7)); a TCP option
// needs nothing.
func TestCapabilities(t *testing.T) {
	address := foreignAddresses()
	toa := &forward.Forward{Transparent: true}
	toa.TOA.On = true
	marks := []sandbox.Capability{address}
	if needsAdminForMarks() { // see sandbox.TestPermitsMarks
		marks = append(marks, sandbox.NetAdmin)
	}
	for _, row := range []struct {
		name     string
		forwards []*forward.Forward
		want     []sandbox.Capability
	}{
		{"plain", []*forward.Forward{{}}, nil},
		{"mark", []*forward.Forward{{}, {Mark: 1}}, marks},
		{"tproxy", []*forward.Forward{{TProxy: true}}, []sandbox.Capability{address}},
		{"transparent", []*forward.Forward{{}, {Transparent: true}}, []sandbox.Capability{address, sandbox.NetBindService}},
		{"transparent from any port", []*forward.Forward{{Transparent: true, Source: transparent.Policy{SourcePort: transparent.Any}}},
			[]sandbox.Capability{address}},
		{"a TCP option", []*forward.Forward{toa}, nil},
	} {
		if got := capabilities(&config.Config{Forwards: row.forwards}); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

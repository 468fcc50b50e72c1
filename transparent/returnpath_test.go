package transparent_test

import (
	"testing"

	"unproxy/integration_test/netns"
	"unproxy/transparent"
)

// TestReturnPathCompletesConnect is TestBind without rules: connect(2) times out
// until the return path is applied.
//
// lo:  backends 127.0.0.1:25, [::1]:25
func TestReturnPathCompletesConnect(t *testing.T) {
	for _, tt := range []struct{ name, backend, source, other string }{
		{"IPv4", "127.0.0.1:25", "203.0.113.9:4711", "127.0.0.1:26"},
		{"IPv6", "[::1]:25", "[2001:db8::9]:4711", "[::1]:26"},
		{"stand-in for IPv6", "127.0.0.1:25", "240.1.2.3:4711", "127.0.0.1:26"},
		{"stand-in for IPv4", "[::1]:25", "[64:ff9b::203.0.113.9]:4711", "[::1]:26"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				l := listenWithoutReturn(t, tt.backend)
				listen(t, tt.other) // its return path must not cover l
				c := newClient(t, ap(tt.source))
				c.giveUpAfterOneSYN()
				if errno := transparent.Bind(transparent.System{}, c.fd, ap(tt.source)); errno != 0 {
					t.Fatal(errno)
				}
				if errno := c.connect(l.addr); errno == 0 {
					t.Fatal("connected without a return path")
				}
				l.applyReturnPath()
				connectFrom(t, ap(tt.source), l.addr)
				if got := l.seen(); got != ap(tt.source) {
					t.Errorf("the backend saw %v, want %v", got, tt.source)
				}
			})
		})
	}
}

package kernel

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"unproxy/integration_test/netns"
)

// Dial does not connect to its own socket, and leaves nothing on the port that keeps a
// server from it. The control, package net, does both.
func TestDialIsNotToItself(t *testing.T) {
	for _, tt := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:45004"}, {"tcp", "[::1]:45004"}, {"tcp", "localhost:45004"}, {"udp", "127.0.0.1:45004"},
		{"udp", "[::1]:45004"},
	} {
		t.Run(tt.network+" "+tt.address, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45005")
				var d net.Dialer
				for range 20 {
					conn, err := Dial(t.Context(), d, tt.network, tt.address)
					if conn != nil {
						if ConnectedToItself(conn) {
							t.Fatalf("%v to %v", conn.LocalAddr(), conn.RemoteAddr())
						}
						conn.Close()
					} else if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Fatal(err)
					}
				}
				if tt.network == "udp" {
					return
				}
				l, err := net.Listen("tcp", tt.address)
				if err != nil {
					t.Fatalf("the server cannot start: %v", err)
				}
				conn, err := Dial(t.Context(), d, "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				l.Close()
				clean := false
				for range 20 {
					if conn, err := d.Dial("tcp", tt.address); err == nil {
						conn.Close()
					}
					l, err := net.Listen("tcp", tt.address)
					if clean = err == nil; !clean {
						break
					}
					l.Close()
				}
				if clean {
					t.Error("the control: package net has left nothing on the port")
				}
			})
		})
	}
}

package integration_test

import (
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// attempts is the number of connections to a closed port among 21 ephemeral ones. A
// gateway that does not look at its sockets connects one in 21 of them to itself.
const attempts = 200

// A backend that does not listen refuses, although its port is one that the kernel
// assigns to outgoing connections: written as an address of either family, as a name, or
// named by the header. No client reads its own bytes, and the backend can start at any time.
//
//	test ──header──▶ gateway unix:in.sock ──▶ 127.0.0.1:45004, [::1]:45004, closed
func TestBackendOnEphemeralPortRefuses(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		four, six := netip.MustParseAddrPort("127.0.0.1:45004"), netip.MustParseAddrPort("[::1]:45004")
		for _, tt := range []struct {
			backend     string
			destination netip.AddrPort
		}{{four.String(), dest4}, {six.String(), dest6}, {"localhost:45004", dest4}, {"header", four}, {"header", six}} {
			t.Run(tt.backend, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "in.sock")
				g := lab.StartGateway(t, "--forward", "unix:"+path+"="+tt.backend, "--trust", "127.0.0.1", "--allow-destination", "127.0.0.0/8",
					"--allow-destination", "::1")
				client := client4
				if tt.destination.Addr().Is6() {
					client = client6
				}
				for range attempts {
					conn, err := net.Dial("unix", path)
					if err != nil {
						t.Fatal(err)
					}
					conn.SetDeadline(await.Deadline(t))
					conn.Write(append(lab.V2(client, tt.destination), "payload"...))
					if echo, _ := io.ReadAll(conn); len(echo) > 0 {
						t.Fatalf("the client read %q", echo)
					}
					conn.Close()
				}
				g.NextConnection(t).Expect(t, "outcome", "backend_refused", "phase", "dial", "bytes_in", "0")
				for _, at := range []netip.AddrPort{four, six} {
					l, err := net.Listen("tcp", at.String())
					if err != nil {
						t.Fatalf("the backend cannot start: %v", err)
					}
					l.Close()
				}
			})
		}
	})
}

// The same for UDP: no flow is to the gateway's own socket.
//
//	test ──header──▶ gateway 127.0.0.1:2000 ──▶ 127.0.0.1:45004, [::1]:45004, closed
func TestUDPBackendOnEphemeralPortRefuses(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		g := lab.StartGateway(t, "--forward", "udp://127.0.0.1:2000=127.0.0.1:45004,[::1]:45004", "--trust", "127.0.0.1",
			"--udp-max-flows", "8", "--drain-timeout", "100ms")
		peer := lab.ListenUDP(t, "127.0.0.1:1000")
		for i := range attempts {
			client, destination := client4, dest4
			if i%2 == 0 {
				client, destination = client6, dest6
			}
			client = netip.AddrPortFrom(client.Addr(), uint16(2000+i))
			peer.Send(t, gatewayUDP, lab.V2Datagram(client, destination, "hello"))
		}
		g.WaitLog(t, "datagrams dropped")
		peer.Empty(t)
	})
}

// A probe of a gateway that is not there is refused. It does not read its own bytes.
func TestProbeOfEphemeralPort(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45004")
		for _, to := range [][]string{{"127.0.0.1:45004"}, {"[::1]:45004"}, {"127.0.0.1:45004", "--udp"}} {
			output, code := lab.RunGateway(t, append([]string{"probe", "--timeout", "1s", "--to"}, to...)...)
			if code == 0 || !strings.Contains(output, "connection refused") {
				t.Errorf("probe %s ended with %d:\n%s", to, code, output)
			}
		}
	})
}

// check and the doctor name listeners and local backends in the range, with the command
// that reserves their ports. After it they report nothing, and earlier reservations remain.
func TestEphemeralPortsAreNamed(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		netns.Sysctl(t, "net.ipv4.ip_local_reserved_ports", "8080")
		flags := []string{"--forward", "127.0.0.1:45010-45011=127.0.0.1:45004-45005?on-demand=off", "--trust", "127.0.0.1"}
		const command = "sysctl -w net.ipv4.ip_local_reserved_ports=8080,45004-45005,45010-45011"
		output, code := lab.RunGateway(t, append([]string{"check"}, flags...)...)
		if code != 0 || !strings.Contains(output, command) {
			t.Errorf("check ended with %d:\n%s", code, output)
		}
		output, code = lab.RunGateway(t, append([]string{"doctor"}, flags...)...)
		if code != 3 || !strings.Contains(output, command) { // 3: the backend refuses
			t.Errorf("doctor ended with %d:\n%s", code, output)
		}
		lab.Shell(t, command)
		for _, verb := range []string{"check", "doctor"} {
			if output, _ := lab.RunGateway(t, append([]string{verb}, flags...)...); strings.Contains(output, "reserved_ports") {
				t.Errorf("%s still says:\n%s", verb, output)
			}
		}
	})
}

// A listener whose port a connection has: the start of the gateway and the doctor name the
// connection, and neither says that a program listens there.
func TestListenersPortIsTakenByConnection(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45004 45004")
		lab.Listen(t, "127.0.0.1:25")
		conn := lab.Dial(t, "127.0.0.1:25")
		udp, err := net.Dial("udp", "127.0.0.1:25")
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		want := conn.LocalAddr().String() + " to 127.0.0.1:25"
		for _, flags := range [][]string{
			{"--forward", ":45004=127.0.0.1:25"},
			{"--forward", "127.0.0.1:45004=127.0.0.1:25"},
			{"--forward", "udp://:45004=127.0.0.1:25"},
			{"--forward", ":2222=127.0.0.1:25", "--admin", "127.0.0.1:45004"},
		} {
			flags = append(flags, "--trust", "127.0.0.1")
			output, code := lab.RunGateway(t, append([]string{"serve"}, flags...)...)
			if code != 1 || !strings.Contains(output, want) || !strings.Contains(output, "ip_local_reserved_ports=45004") ||
				strings.Contains(output, "program listens") {
				t.Errorf("serve %v ended with %d:\n%s", flags, code, output)
			}
			if len(flags) > 4 {
				continue // the doctor does not look at the admin endpoint
			}
			output, code = lab.RunGateway(t, append([]string{"doctor"}, flags...)...)
			if code != 3 || !strings.Contains(output, want) || strings.Contains(output, "program listens on this") {
				t.Errorf("doctor %v ended with %d:\n%s", flags, code, output)
			}
		}
	})
}

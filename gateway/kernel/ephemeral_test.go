package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/netns"
)

// sysctls returns a file system with the two kernel parameters.
func sysctls(ports, reserved string) fstest.MapFS {
	return fstest.MapFS{
		portRangePath:     {Data: []byte(ports)},
		reservedPortsPath: {Data: []byte(reserved)},
	}
}

// The formats are those of ip-sysctl.rst, "ip_local_port_range" and
// "ip_local_reserved_ports".
func TestEphemeralPorts(t *testing.T) {
	e, err := ReadEphemeralPorts(sysctls("32768\t60999\n", "8080,9148,40000-40010\n"))
	if err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]bool{
		0: false, 32767: false, 32768: true, 39999: true, 40000: false, 40010: false, 40011: true, 60999: true, 61000: false,
		65535: false, 8080: false,
	} {
		if got := e.Contains(port); got != want {
			t.Errorf("Contains(%d) = %v, want %v", port, got, want)
		}
	}
	for _, tt := range []struct {
		more []PortRange
		want string
	}{
		{nil, "8080,9148,40000-40010"},
		{[]PortRange{{45004, 45004}}, "8080,9148,40000-40010,45004"},
		{[]PortRange{{40011, 40020}, {39990, 40001}}, "8080,9148,39990-40020"},
		{[]PortRange{{50000, 50000}, {50001, 50001}, {50000, 50000}}, "8080,9148,40000-40010,50000-50001"},
		{[]PortRange{{9149, 65535}}, "8080,9148-65535"},
	} {
		if got := e.Reserve(tt.more); got != tt.want {
			t.Errorf("Reserve(%v) = %q, want %q", tt.more, got, tt.want)
		}
	}
}

func TestEphemeralPortsUnreadable(t *testing.T) {
	for _, files := range []fstest.MapFS{{}, sysctls("", ""), sysctls("1 x", ""), sysctls("1 99999", ""), sysctls("1 2 3", ""),
		sysctls("1 2", "x-y")} {
		if e, err := ReadEphemeralPorts(files); err == nil {
			t.Errorf("read %+v", e)
		}
	}
	if e, err := ReadEphemeralPorts(sysctls("32768 60999", "\n")); err != nil || len(e.Reserved) != 0 {
		t.Errorf("no reserved ports: %+v, %v", e, err)
	}
	var none *LivePorts
	if none.Contains(40000) {
		t.Error("nil contains a port")
	}
}

// The parameters are those of the network namespace. Refresh reads them again.
func TestLivePorts(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		l := NewLivePorts()
		if !l.Contains(45004) || l.Contains(45021) {
			t.Error("the range is not that of the namespace")
		}
		netns.Sysctl(t, "net.ipv4.ip_local_reserved_ports", "45004")
		if l.Refresh(); l.Contains(45004) || !l.Contains(45005) {
			t.Error("the reserved port is not left out")
		}
	})
}

func TestIsSelf(t *testing.T) {
	for _, tt := range []struct {
		local, remote string
		want          bool
	}{
		{"127.0.0.1:45004", "127.0.0.1:45004", true},
		{"127.0.0.1:45004", "127.0.0.2:45004", false},
		{"127.0.0.1:45004", "127.0.0.1:45005", false},
		{"127.0.0.1:45004", "0.0.0.0:45004", true},
		{"[::1]:45004", "[::]:45004", true},
		{"[::1]:45004", "[::1]:45004", true},
		{"127.0.0.1:45004", "[::ffff:127.0.0.1]:45004", true},
		{"[fe80::1]:45004", "[fe80::1%eth0]:45004", true},
	} {
		if got := IsSelf(netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.remote)); got != tt.want {
			t.Errorf("IsSelf(%s, %s) = %v, want %v", tt.local, tt.remote, got, tt.want)
		}
	}
}

// The kernel does connect sockets to themselves; otherwise the tests of the callers
// would prove nothing. It tries all ports of a range within as many attempts.
func TestKernelConnectsToItself(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "45000 45020")
		for _, to := range []string{"127.0.0.1:45004", "[::1]:45004", "0.0.0.0:45004"} {
			at := netip.MustParseAddrPort(to)
			k, found := System(), 0
			for range 200 {
				family := unix.AF_INET6
				if at.Addr().Is4() {
					family = unix.AF_INET
				}
				fd, errno := k.Socket(family)
				if errno != 0 {
					t.Fatal(errno)
				}
				if errno := k.Connect(fd, at); errno != 0 && errno != unix.EINPROGRESS {
					t.Fatal(errno)
				}
				local, errno := k.LocalAddr(fd)
				if errno != 0 {
					t.Fatal(errno)
				}
				if IsSelf(local, at) {
					found++
				}
				k.Reset(fd)
			}
			if found == 0 {
				t.Errorf("%s: 200 connects, none to itself", to)
			}
			t.Log(strings.TrimSpace(to), found)
		}
	})
}

// BenchmarkIsSelfConnected measures the check, which connections to backends on
// ephemeral ports need.
func BenchmarkIsSelfConnected(b *testing.B) {
	k := System()
	fd, errno := k.Socket(unix.AF_INET)
	if errno != 0 {
		b.Fatal(errno)
	}
	defer k.Close(fd)
	to := netip.MustParseAddrPort("127.0.0.1:45004")
	for b.Loop() {
		if local, _ := k.LocalAddr(fd); IsSelf(local, to) {
			b.Fatal("connected")
		}
	}
}

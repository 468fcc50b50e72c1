package lab

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is another host: a network namespace that a pair of veth interfaces connects
// to the test's own namespace.
type Host struct {
	// Interface is the test's end of the pair; the host's is "eth0".
	Interface string
	pid       string
}

// NewHost starts a host. Its interface gets the addresses, such as "10.0.0.2/24"; the
// test's end gets none. Both ends and the host's lo are up.
func NewHost(t testing.TB, interfaceName string, addresses ...string) *Host {
	t.Helper()
	p := Start(t, Command{Name: "unshare", Args: []string{"--net", "sh", "-c", "echo ready; exec sleep infinity"}})
	p.WaitLine(t, "ready")
	h := &Host{Interface: interfaceName, pid: strconv.Itoa(p.PID())}
	h.here(t, "link add", interfaceName, "type veth peer name eth0 netns", h.pid)
	h.here(t, "link set", interfaceName, "up")
	h.IP(t, "link set lo up")
	h.IP(t, "link set eth0 up")
	for _, a := range addresses {
		family := "-4"
		if strings.Contains(a, ":") {
			family = "-6"
		}
		h.IP(t, family+" address add "+a+" dev eth0"+nodad(a))
	}
	return h
}

// nodad turns off duplicate address detection, which would delay an IPv6 address.
func nodad(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

func (h *Host) here(t testing.TB, words ...string) {
	t.Helper()
	Must(t, Command{Name: "ip", Args: strings.Fields(strings.Join(words, " "))})
}

// Tunnel connects two hosts by interfaces without ARP and without addresses.
func (h *Host) Tunnel(t testing.TB, name string, other *Host, otherName string) {
	t.Helper()
	h.IP(t, "link add "+name+" type veth peer name "+otherName+" netns "+other.pid)
	const address = "52:54:00:00:00:aa" // without ARP each end sends to its own address
	h.IP(t, "link set "+name+" address "+address+" arp off up")
	other.IP(t, "link set "+otherName+" address "+address+" arp off up")
}

// IP runs ip(8) on the host and returns its output.
func (h *Host) IP(t testing.TB, command string) string {
	t.Helper()
	return h.Output(t, append([]string{"ip"}, strings.Fields(command)...)...)
}

// Sysctl sets a network parameter of the host, such as "net.ipv4.ip_forward".
func (h *Host) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	h.Shell(t, "echo "+value+" >/proc/sys/"+strings.ReplaceAll(name, ".", "/"))
}

// Shell is [Shell] on the host.
func (h *Host) Shell(t testing.TB, script string) string {
	t.Helper()
	return Must(t, h.On(shell(script)))
}

// Output is [Output] on the host.
func (h *Host) Output(t testing.TB, words ...string) string {
	t.Helper()
	return Must(t, h.On(Command{Name: words[0], Args: words[1:]}))
}

// ListenUDP opens a UDP socket on the host, or on the test's own if h is nil. The
// socket is closed with the test.
func (h *Host) ListenUDP(t testing.TB, address netip.AddrPort) (conn *net.UDPConn) {
	t.Helper()
	listen := func() {
		var err error
		if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(address)); err != nil {
			t.Fatalf("listen on udp %v: %v", address, err)
		}
	}
	if h == nil {
		listen()
	} else {
		h.Do(t, listen)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// enter moves the thread into the network namespace of a process.
func enter(pid string) error {
	f, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWNET))
}

// On returns the command that runs c on the host.
func (h *Host) On(c Command) Command {
	c.Args = append([]string{"--target", h.pid, "--net", c.Name}, c.Args...)
	c.Name = "nsenter"
	return c
}

// Do runs f on a thread in the host's network namespace. The sockets that f opens
// stay there. Goroutines that f starts do not run there.
func (h *Host) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	if err := enter(h.pid); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(os.NewSyscallError("setns", err))
			return // the thread stays locked and ends with the goroutine
		}
		runtime.UnlockOSThread()
	}()
	f()
}

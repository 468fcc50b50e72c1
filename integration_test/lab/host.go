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

// Host is another host: a network namespace that is joined to the test's by a
// cable, a pair of veth interfaces. The test must be in a namespace itself.
type Host struct {
	// Interface is the test's end of the cable; the other one is "eth0".
	Interface string
	pid       string
}

// NewHost starts a host whose end of the cable has the addresses, written with
// the length of their network. lo and both ends are up; the test's end gets no
// address.
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

// nodad spares an IPv6 address the wait in which it is looked for elsewhere.
func nodad(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

func (h *Host) here(t testing.TB, words ...string) {
	t.Helper()
	run(t, Command{Name: "ip", Args: strings.Fields(strings.Join(words, " "))})
}

// Tunnel joins two hosts by a tunnel, a cable without neighbours or addresses,
// whose ends have the names.
func (h *Host) Tunnel(t testing.TB, name string, other *Host, otherName string) {
	t.Helper()
	h.IP(t, "link add "+name+" type veth peer name "+otherName+" netns "+other.pid)
	const address = "52:54:00:00:00:aa" // without ARP each end takes the other to have its own
	h.IP(t, "link set "+name+" address "+address+" arp off up")
	other.IP(t, "link set "+otherName+" address "+address+" arp off up")
}

// IP runs ip(8) on the host.
func (h *Host) IP(t testing.TB, command string) string {
	t.Helper()
	return run(t, h.On(Command{Name: "ip", Args: strings.Fields(command)}))
}

// Sysctl sets a parameter of the host's network, "net.ipv4.ip_forward".
func (h *Host) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	h.Shell(t, "echo "+value+" >/proc/sys/"+strings.ReplaceAll(name, ".", "/"))
}

// Shell runs a script on the host and returns what it printed.
func (h *Host) Shell(t testing.TB, script string) string {
	t.Helper()
	return run(t, h.On(Command{Name: "sh", Args: []string{"-ec", script}}))
}

// ListenUDP opens a UDP socket on the host; a nil host is the test's own. It is
// closed with the test.
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

// enter takes the thread into the network namespace of a process.
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

// Do runs f on a thread that is on the host: the sockets that f opens are the
// host's and stay so. Goroutines that f starts are not on the host.
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
			return // the thread stays locked, and ends with the goroutine
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// run runs c, which must succeed.
func run(t testing.TB, c Command) string {
	t.Helper()
	output, code := Run(t, c)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d: %s", c.Name, strings.Join(c.Args, " "), code, output)
	}
	return output
}

package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/integration_test/seccomp"
	"unproxy/transparent"
)

// The headers of packets, in hex: IPv4 from 10.9.0.1 without and with an option,
// IPv6 from fd09::1, and TCP from port 32769 (0x8001) to 25.
const (
	ip4        = "4500003c000040004006 0000 0a090001 0a090002"
	ip4Options = "46000040000040004006 0000 0a090001 0a090002 01010100"
	ip6        = "6000000000280640 fd090000000000000000000000000001 fd090000000000000000000000000002"
	tcpSYN     = "80010019 00000001 00000000 %s02ffff 00000000"
)

// parseSYN returns the source and the maximum segment size of a packet, or false if it
// has no such option. It does not panic on malformed packets.
func TestParseSYN(t *testing.T) {
	tcp := func(offset, options string) string { return strings.Replace(tcpSYN, "%s", offset, 1) + options }
	for _, tt := range []struct {
		name, packet string
		source       string // "" if there is no such option
		mss          uint16
	}{
		{"IPv4", ip4 + tcp("60", "0204021d"), "10.9.0.1:32769", 541},
		{"IPv4 with options", ip4Options + tcp("60", "0204021d"), "10.9.0.1:32769", 541},
		{"IPv6", ip6 + tcp("60", "0204021d"), "[fd09::1]:32769", 541},
		{"after other options (RFC 9293, section 3.1)", ip4 + tcp("80", "0101 0402 0303 07 00"+"0204021d"), "", 0},
		{"after padding and SACK permitted", ip4 + tcp("70", "0101 0402 0204021d"), "10.9.0.1:32769", 541},
		{"no options", ip4 + tcp("50", ""), "", 0},
		{"behind the end of the options", ip4 + tcp("60", "00000000 0204021d"), "", 0},
		{"behind the header", ip4 + tcp("50", "0204021d"), "", 0},
		{"a length of 0", ip4 + tcp("60", "03000000"), "", 0},
		{"a length of 1", ip4 + tcp("60", "03010000"), "", 0},
		{"longer than the options", ip4 + tcp("60", "03ff0000"), "", 0},
		{"a cut option", ip4 + tcp("60", "02"), "", 0},
		{"a data offset of 0", ip4 + tcp("00", ""), "", 0},
		{"a data offset beyond the packet", ip4 + tcp("f0", "0101"), "", 0},
		{"an IPv4 header of length 0", "40" + (ip4 + tcp("60", "0204021d"))[2:], "", 0},
		{"nothing", "", "", 0},
	} {
		packet, err := hex.DecodeString(strings.ReplaceAll(tt.packet, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		source, mss, ok := parseSYN(packet)
		want := netip.AddrPort{}
		if tt.source != "" {
			want = ap(tt.source)
		}
		if ok != (tt.source != "") || ok && (source != want || mss != tt.mss) {
			t.Errorf("%s: %v, %d, %v; want %q, %d", tt.name, source, mss, ok, tt.source, tt.mss)
		}
		for n := range packet { // truncated at every length
			parseSYN(packet[:n])
		}
	}
}

// isSYN finds the first packets of connections to one address, and does not panic on malformed ones.
func TestIsSYN(t *testing.T) {
	syn := strings.Replace(tcpSYN, "%s", "50", 1)
	four, six := ap("10.9.0.2:25"), ap("[fd09::2]:25")
	for _, tt := range []struct {
		name, packet string
		to           netip.AddrPort
		want         bool
	}{
		{"IPv4", ip4 + syn, four, true},
		{"IPv4 with options", ip4Options + syn, four, true},
		{"IPv6", ip6 + syn, six, true},
		{"IPv4 for IPv6", ip4 + syn, six, false},
		{"IPv6 for IPv4", ip6 + syn, four, false},
		{"another address", ip4 + syn, ap("10.9.0.3:25"), false},
		{"another port", ip4 + syn, ap("10.9.0.2:26"), false},
		{"another protocol", strings.Replace(ip4, "4006", "4011", 1) + syn, four, false},
		{"an answer, with ACK", ip4 + strings.Replace(syn, "5002", "5012", 1), four, false},
		{"no SYN", ip4 + strings.Replace(syn, "5002", "5010", 1), four, false},
		{"not IP", "00" + (ip4 + syn)[2:], four, false},
		{"nothing", "", four, false},
	} {
		packet, err := hex.DecodeString(strings.ReplaceAll(tt.packet, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := isSYN(packet, tt.to); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		for n := range packet { // truncated at every length
			if isSYN(packet[:n], tt.to) {
				t.Errorf("%s: true for %d bytes of it", tt.name, n)
			}
		}
	}
}

// refuseFilters makes the kernel refuse socket filters in this thread, until the process ends.
func refuseFilters(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	err := seccomp.Refusal{Call: unix.SYS_SETSOCKOPT, Errno: unix.EPERM, Arguments: []seccomp.Argument{
		{Number: 1, Value: unix.SOL_SOCKET}, {Number: 2, Value: unix.SO_ATTACH_FILTER}}}.Apply()
	if err != nil {
		t.Skipf("seccomp filters are not permitted: %v", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	all := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &all})
	if !errors.Is(err, unix.EPERM) {
		t.Fatalf("the kernel does not refuse filters: %v", err)
	}
}

// Without a filter the tap finds the test's first packet as well, as long as its queue has room. Then
// nothing is found, rather than another packet.
//
// lo:  servers on 127.0.0.1:25 and [::1]:25
func TestTapWithoutFilter(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		addReturnPath(t)
		serverOn(t, "127.0.0.1:25")
		serverOn(t, "[::1]:25")
		refuseFilters(t)
		for _, to := range []netip.AddrPort{ap("127.0.0.1:25"), ap("[::1]:25")} {
			client := transparent.TestClient(to.Addr().Is6())
			for others, want := range map[int]netip.AddrPort{0: client, 50: client, 20_000: {}} {
				if got := tapAmong(t, to, client, others); got != want {
					t.Errorf("to %s, after %d other packets: %v, want %v", to, others, got, want)
				}
			}
			if sent, err := connect(t.Context(), Attempt{To: to, From: client}); err != nil || sent != client {
				t.Errorf("Connect to %s: %v, %v; want %v", to, sent, err, client)
			}
		}
		if err := sight(); err != nil {
			t.Error(err)
		}
	})
}

// tapAmong returns what a tap sees of a connection, if other packets precede it.
func tapAmong(t *testing.T, to, client netip.AddrPort, others int) netip.AddrPort {
	t.Helper()
	seen, err := openTap(to, leastTestMSS)
	if err != nil {
		t.Fatal(err)
	}
	defer seen.close()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	for range others {
		if _, err := sink.WriteTo([]byte("x"), sink.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if opened := c.Control(func(fd uintptr) {
			err = prepare(int(fd), Attempt{To: to, From: client}, leastTestMSS)
		}); opened != nil {
			return opened
		}
		return err
	}}
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return seen.source()
}

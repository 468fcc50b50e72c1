package lab

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"unproxy/integration_test/await"
)

// V2Datagram returns the version 2 header of a datagram that names the two, which
// must be of one family, with payload behind it.
func V2Datagram(source, destination netip.AddrPort, payload string) []byte {
	b := V2(source, destination)
	b[13] = b[13]&0xf0 | 0x02
	return append(b, payload...)
}

// LocalDatagram returns the header of a LOCAL datagram with payload behind it.
func LocalDatagram(payload string) []byte {
	return append([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"), payload...)
}

// SPP returns the 38 bytes of the Simple Proxy Protocol that name the two.
func SPP(client, proxy netip.AddrPort) []byte {
	b := []byte{0x56, 0xec}
	for _, a := range []netip.Addr{client.Addr(), proxy.Addr()} {
		as16 := a.As16()
		b = append(b, as16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, proxy.Port())
}

// Datagrams is a UDP socket of the test, closed with it, on which all reading
// together is bounded.
type Datagrams struct {
	*net.UDPConn
	Addr netip.AddrPort // its own
}

// ListenUDP opens a socket on address.
func ListenUDP(t testing.TB, address string) *Datagrams {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	network := "udp6"
	if at.Addr().Is4() {
		network = "udp4"
	}
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(await.Deadline(t))
	return &Datagrams{c, c.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// Send sends each of the datagrams to an address.
func (d *Datagrams) Send(t testing.TB, to string, datagrams ...[]byte) {
	t.Helper()
	at := netip.MustParseAddrPort(to)
	for _, b := range datagrams {
		if _, err := d.WriteToUDPAddrPort(b, at); err != nil {
			t.Fatalf("send %d bytes to %s: %v", len(b), to, err)
		}
	}
}

// Next waits for the next datagram and returns it and its sender.
func (d *Datagrams) Next(t testing.TB) (data string, from netip.AddrPort) {
	t.Helper()
	buffer := make([]byte, 70000)
	n, from, err := d.ReadFromUDPAddrPort(buffer)
	if err != nil {
		t.Fatalf("%v waits for a datagram: %v", d.Addr, err)
	}
	return string(buffer[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// Expect waits for the next datagram, which must be want, and returns its sender.
func (d *Datagrams) Expect(t testing.TB, want string) (from netip.AddrPort) {
	t.Helper()
	data, from := d.Next(t)
	if data != want {
		t.Errorf("%v got %.100q from %v, want %.100q", d.Addr, data, from, want)
	}
	return from
}

// Reply sends a datagram to an address that one came from.
func (d *Datagrams) Reply(t testing.TB, to netip.AddrPort, data string) {
	t.Helper()
	if _, err := d.WriteToUDPAddrPort([]byte(data), to); err != nil {
		t.Fatal(err)
	}
}

// Empty checks that nothing waits to be read.
func (d *Datagrams) Empty(t testing.TB) {
	t.Helper()
	d.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer d.SetReadDeadline(await.Deadline(t))
	buffer := make([]byte, 2000)
	if n, from, err := d.ReadFromUDPAddrPort(buffer); err == nil {
		t.Errorf("%v got %.100q from %v, want nothing", d.Addr, buffer[:n], from)
	}
}

// WaitReceiving waits until somebody has the UDP address in the test's network
// namespace, itself or its port on all addresses.
func WaitReceiving(t testing.TB, address string) {
	t.Helper()
	want := netip.MustParseAddrPort(address)
	await.Until(t, "a UDP socket has the address "+address, func() bool { return inTable(want, "udp", "07") })
}

// inTable reports whether a socket of a protocol and state has the address a, or
// its port on all addresses.
func inTable(a netip.AddrPort, protocol, state string) bool {
	for _, table := range []string{"/proc/self/net/" + protocol, "/proc/self/net/" + protocol + "6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			fields := strings.Fields(s.Text())
			if len(fields) < 4 || fields[3] != state {
				continue
			}
			addr, port, _ := strings.Cut(fields[1], ":")
			if port == fmt.Sprintf("%04X", a.Port()) && (addr == hexAddr(a.Addr()) || strings.Trim(addr, "0") == "") {
				return true
			}
		}
	}
	return false
}

// Dnsdist starts dnsdist with the configuration and waits for the addresses that
// it is to listen on, with TCP.
func Dnsdist(t testing.TB, config string, addresses ...string) *Process {
	t.Helper()
	path := WriteFile(t, "dnsdist.conf", "setSecurityPollSuffix('')\n"+config)
	return startServer(t, Command{Name: "dnsdist", Args: []string{"--supervised", "--disable-syslog", "-C", path}}, addresses)
}

// Dnsmasq starts dnsmasq on the addresses, which are of one port. It answers for
// the name with the address, knows no other, and logs each query with who asked.
func Dnsmasq(t testing.TB, name, address string, addresses ...string) *Process {
	t.Helper()
	args := []string{"--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
		"--log-queries=extra", "--log-facility=-", "--address=/" + name + "/" + address}
	for i, a := range addresses {
		at := netip.MustParseAddrPort(a)
		args = append(args, "--listen-address="+at.Addr().String())
		if i == 0 {
			args = append(args, fmt.Sprintf("--port=%d", at.Port()))
		}
	}
	return startServer(t, Command{Name: "dnsmasq", Args: args}, addresses)
}

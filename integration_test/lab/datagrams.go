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

// V2Datagram returns a datagram with a version 2 header and the payload. Both
// addresses must be of the same family.
func V2Datagram(source, destination netip.AddrPort, payload string) []byte {
	b := V2(source, destination)
	b[13] = b[13]&0xf0 | 0x02
	return append(b, payload...)
}

// LocalDatagram returns a datagram with a LOCAL header and the payload.
func LocalDatagram(payload string) []byte { return append(Local(), payload...) }

// SPP returns the 38 bytes of a Simple Proxy Protocol header.
func SPP(client, proxy netip.AddrPort) []byte {
	b := []byte{0x56, 0xec}
	for _, a := range []netip.Addr{client.Addr(), proxy.Addr()} {
		as16 := a.As16()
		b = append(b, as16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, proxy.Port())
}

// Datagrams is a UDP socket that is closed with the test.
type Datagrams struct {
	*net.UDPConn
	Addr netip.AddrPort // local address
}

// ListenUDP opens a UDP socket on address.
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
		t.Fatalf("receive a datagram on %v: %v", d.Addr, err)
	}
	return string(buffer[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// Expect waits for the next datagram, which must equal want, and returns its sender.
func (d *Datagrams) Expect(t testing.TB, want string) (from netip.AddrPort) {
	t.Helper()
	data, from := d.Next(t)
	if data != want {
		t.Errorf("%v got %.100q from %v, want %.100q", d.Addr, data, from, want)
	}
	return from
}

// Reply sends a datagram to the sender of another one.
func (d *Datagrams) Reply(t testing.TB, to netip.AddrPort, data string) {
	t.Helper()
	if _, err := d.WriteToUDPAddrPort([]byte(data), to); err != nil {
		t.Fatal(err)
	}
}

// Empty fails the test if a datagram is in the receive queue.
func (d *Datagrams) Empty(t testing.TB) {
	t.Helper()
	d.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer d.SetReadDeadline(await.Deadline(t))
	buffer := make([]byte, 2000)
	if n, from, err := d.ReadFromUDPAddrPort(buffer); err == nil {
		t.Errorf("%v got %.100q from %v, want nothing", d.Addr, buffer[:n], from)
	}
}

// WaitReceiving waits until a UDP socket in the test's network namespace has the
// address, or its port on all addresses.
func WaitReceiving(t testing.TB, address string) {
	t.Helper()
	want := netip.MustParseAddrPort(address)
	await.Until(t, "a UDP socket has the address "+address, func() bool { return inTable(want, "udp", "07") })
}

// inTable reports whether a socket of a protocol and in a state (proc_net_tcp(5))
// has the address, or its port on all addresses, in the network namespace of the thread.
func inTable(a netip.AddrPort, protocol, state string) bool {
	for _, table := range []string{"/proc/thread-self/net/" + protocol, "/proc/thread-self/net/" + protocol + "6"} {
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

// Dnsdist starts dnsdist with the configuration and waits until it listens on the
// TCP addresses.
func Dnsdist(t testing.TB, config string, addresses ...string) *Process {
	t.Helper()
	path := WriteFile(t, "dnsdist.conf", "setSecurityPollSuffix('')\n"+config)
	return startServer(t, Command{Name: "dnsdist", Args: []string{"--supervised", "--disable-syslog", "-C", path}},
		addresses)
}

// Dnsmasq starts dnsmasq on the addresses, which must have the same port. It
// resolves name to address, knows no other name, and logs each query with its client.
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

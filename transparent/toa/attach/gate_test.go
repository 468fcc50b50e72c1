package attach_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"unproxy/transparent/toa"
)

// gate is the gate's search and verdict, run by BPF_PROG_TEST_RUN on packets of the test.
type gate struct {
	program *ebpf.Program
	found   *ebpf.Map
}

// gates are the variants: by the family of the socket, and whether legacy options count.
type gates map[uint32]map[bool]gate

func loadGates(t testing.TB) gates {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run BPF programs")
	}
	if err := rlimit.RemoveMemlock(); err != nil { // maps count as locked memory before Linux 5.11
		t.Fatal(err)
	}
	all := gates{unix.AF_INET: {}, unix.AF_INET6: {}}
	for family := range all {
		for _, legacy := range []bool{false, true} {
			all[family][legacy] = loadGate(t, family, legacy)
		}
	}
	return all
}

func loadGate(t testing.TB, family uint32, legacy bool) gate {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("testdata/packet.o")
	if err != nil {
		t.Fatal(err)
	}
	bits, isLegacy := uint8(1), uint32(0)
	if legacy {
		bits, isLegacy = 3, 1
	}
	if err := spec.Variables["family"].Set(family); err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["legacy"].Set(isLegacy); err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Skipf("this kernel does not load the gate: %v", err)
	}
	t.Cleanup(c.Close)
	for _, from := range []netip.Addr{gate4, gate6} {
		key := make([]byte, 20)
		binary.NativeEndian.PutUint32(key, 128)
		a := from.As16()
		copy(key[4:], a[:])
		if err := c.Maps["toa_gateways"].Put(key, bits); err != nil {
			t.Fatal(err)
		}
	}
	return gate{c.Programs["packet"], c.Maps["found"]}
}

// run returns the client that is found in a packet, and whether the packet passes.
func (g gate) run(t testing.TB, packet []byte) (client netip.AddrPort, pass bool) {
	t.Helper()
	var zero uint32
	verdict, err := g.program.Run(&ebpf.RunOptions{Data: append(make([]byte, 14), packet...)})
	if err != nil {
		t.Fatalf("run the gate on % x: %v", packet, err)
	}
	var each [][20]byte
	if err := g.found.Lookup(zero, &each); err != nil {
		t.Fatal(err)
	}
	for cpu := range each { // only the processor that ran it has written; the value is cleared for the next run
		c := each[cpu]
		port := binary.BigEndian.Uint16(c[2:])
		switch binary.NativeEndian.Uint16(c[:]) {
		case unix.AF_INET:
			client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(c[4:8])), port)
		case unix.AF_INET6:
			client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(c[4:20])), port)
		}
		each[cpu] = [20]byte{}
	}
	if err := g.found.Put(zero, each); err != nil {
		t.Fatal(err)
	}
	return client, verdict == 1
}

var (
	gate4, server4 = netip.MustParseAddr("10.55.0.1"), netip.MustParseAddr("10.55.0.2")
	gate6, server6 = netip.MustParseAddr("fd00:55::1"), netip.MustParseAddr("fd00:55::2")
)

// ackOf returns an ACK of the gateway with options, whose length is a multiple of 4. extra
// is the length of IPv4 options before the TCP header, in words.
func ackOf(overIPv6 bool, extra int, options []byte) []byte {
	tcp := make([]byte, 20, 60)
	binary.BigEndian.PutUint16(tcp[2:], 7000)
	tcp[12], tcp[13] = byte(5+len(options)/4)<<4, 0x10
	tcp = append(tcp, options...)
	if overIPv6 {
		ip := make([]byte, 40, 100)
		ip[0], ip[6], ip[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		from, to := gate6.As16(), server6.As16()
		copy(ip[8:], from[:])
		copy(ip[24:], to[:])
		return append(ip, tcp...)
	}
	ip := make([]byte, 20+4*extra, 120)
	ip[0], ip[8], ip[9] = byte(0x45+extra), 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
	from, to := gate4.As4(), server4.As4()
	copy(ip[12:], from[:])
	copy(ip[16:], to[:])
	for i := 20; i < len(ip); i++ {
		ip[i] = 1
	}
	return append(ip, tcp...)
}

// cannotBe is the twin of denied in option.h.
func cannotBe(a netip.Addr) bool {
	return a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.Is4In6() || a.Is6() && a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || a.Is4() && a.As4()[0] == 0
}

// The gate finds the client that toa.Find finds, and passes what has one that can be, is
// not the server's address, and can be shown by the socket.
func FuzzGate(f *testing.F) {
	all := loadGates(f)
	add := func(options string) {
		f.Add([]byte(options), false, uint8(0))
		f.Add([]byte(options), true, uint8(7))
	}
	for _, c := range []string{"203.0.113.9:4711", "[2001:db8::9]:4711", "127.0.0.1:1", "0.1.1.1:1", "224.0.0.1:1", "255.255.255.255:1",
		"10.55.0.2:1", "[fd00:55::2]:1", "[::]:1", "[::1]:1", "[fe80::1]:1", "[ff02::1]:1"} {
		for _, format := range []toa.Format{toa.Negotiated, toa.Legacy} {
			option := string(toa.Append(nil, netip.MustParseAddrPort(c), format))
			add(option)
			add("\x01\x01\x08\x0a\x00\x00\x00\x01\x00\x00\x00\x02" + option)
			add("\xfe\x02" + option)
			add("\xfe\x04UP" + option)
			add("\xfe\x08\x12\x34\x01\x02\x03\x04" + option)
			add(option[:len(option)-1])
			add("\x00" + option)
			add("\x05\x01" + option)
		}
	}
	add("\xfe\x16UP\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x09")
	f.Fuzz(func(t *testing.T, options []byte, legacy bool, shape uint8) {
		if len(options) > 40 {
			options = options[:40]
		}
		for len(options)%4 != 0 {
			options = append(options, 0)
		}
		overIPv6, family := shape&1 != 0, uint32(unix.AF_INET)
		if shape&2 != 0 || overIPv6 {
			family = unix.AF_INET6
		}
		got, pass := all[family][legacy].run(t, ackOf(overIPv6, int(shape>>2&3), options))
		want, found := toa.Find(options, legacy)
		local := server4
		if overIPv6 {
			local = server6
		}
		wantPass := found && !cannotBe(want.Addr()) && want.Addr() != local && (want.Addr().Is4() || family == unix.AF_INET6)
		if got != want || pass != wantPass {
			t.Errorf("options % x, legacy %v, shape %d: the gate finds %v and passes %v; want %v, %v",
				options, legacy, shape, got, pass, want, wantPass)
		}
	})
}

package integration_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/transparent/toa"
)

// rawGateway makes handshakes by hand, from an address that no kernel has. Each connection
// is a source port.
type rawGateway struct {
	t        *testing.T
	send     int // a raw socket with headers
	from, to netip.Addr
	answers  chan rawSegment
}

type rawSegment struct {
	port     uint16 // ours
	sequence uint32
}

const rawFirstPort = 20000

// newRawGateway starts to read the SYN-ACKs of the host for the address from.
func newRawGateway(t *testing.T, r *toaRig, from, to string) *rawGateway {
	t.Helper()
	g := &rawGateway{t: t, from: netip.MustParseAddr(from), to: netip.MustParseAddr(to), answers: make(chan rawSegment, 10000)}
	be, err := net.InterfaceByName("be")
	if err != nil {
		t.Fatal(err)
	}
	family, ethernet := unix.AF_INET, uint16(unix.ETH_P_IP)
	if g.from.Is6() {
		family, ethernet = unix.AF_INET6, unix.ETH_P_IPV6
	}
	r.host.IP(t, fmt.Sprintf("neigh add %s lladdr %s dev eth0 nud permanent", from, be.HardwareAddr))
	g.open(family, ethernet)
	return g
}

// open opens the sockets and starts to read.
func (g *rawGateway) open(family int, ethernet uint16) {
	t := g.t
	t.Helper()
	var err error
	if g.send, err = unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW); err != nil {
		t.Fatal(err)
	}
	receive, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(ethernet<<8|ethernet>>8))
	if err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptInt(receive, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	t.Cleanup(func() {
		unix.Shutdown(receive, unix.SHUT_RD)
		unix.Close(receive)
		unix.Close(g.send)
	})
	tv := unix.NsecToTimeval(100e6)
	unix.SetsockoptTimeval(receive, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	go g.read(receive)
}

// read reads packets until the socket is closed.
func (g *rawGateway) read(fd int) {
	b := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		at, protocol := 40, 6
		if g.from.Is4() {
			at, protocol = int(b[0]&15)*4, 9
		}
		if n < at+20 || b[protocol] != unix.IPPROTO_TCP || b[at+13]&0x12 != 0x12 {
			continue
		}
		g.answers <- rawSegment{binary.BigEndian.Uint16(b[at+2:]), binary.BigEndian.Uint32(b[at+4:])}
	}
}

// segment sends one. options must be padded.
func (g *rawGateway) segment(port uint16, sequence, acknowledged uint32, flags byte, options, data []byte) {
	tcp := make([]byte, 20, 100)
	binary.BigEndian.PutUint16(tcp, port)
	binary.BigEndian.PutUint16(tcp[2:], toaPort)
	binary.BigEndian.PutUint32(tcp[4:], sequence)
	binary.BigEndian.PutUint32(tcp[8:], acknowledged)
	tcp[12], tcp[13] = byte(5+len(options)/4)<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	tcp = append(append(tcp, options...), data...)
	binary.BigEndian.PutUint16(tcp[16:], g.checksum(tcp))
	packet := make([]byte, 20, 200)
	if g.from.Is4() {
		packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_TCP // the kernel fills in length and checksum
		copy(packet[12:], g.from.AsSlice())
		copy(packet[16:], g.to.AsSlice())
	} else {
		packet = packet[:40]
		packet[0], packet[6], packet[7] = 0x60, unix.IPPROTO_TCP, 64
		binary.BigEndian.PutUint16(packet[4:], uint16(len(tcp)))
		copy(packet[8:], g.from.AsSlice())
		copy(packet[24:], g.to.AsSlice())
	}
	if err := unix.Sendto(g.send, append(packet, tcp...), 0, sockaddrOf(netip.AddrPortFrom(g.to, 0))); err != nil {
		g.t.Errorf("send: %v", err)
	}
}

// checksum is that of RFC 9293, section 3.1.
func (g *rawGateway) checksum(tcp []byte) uint16 {
	all := slices.Concat(g.from.AsSlice(), g.to.AsSlice(), []byte{0, unix.IPPROTO_TCP, byte(len(tcp) >> 8), byte(len(tcp))}, tcp)
	if len(all)%2 != 0 {
		all = append(all, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(all); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(all[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// randomOptions returns up to 40 bytes that look like options: ours, legacy ones, others,
// padding, broken ones, and noise. Kinds 19 and 29 are left out: the kernel drops segments
// with a signature that it does not expect.
func randomOptions(random *rand.Rand) (b []byte) {
	clients := []string{"203.0.113.9:4711", "[2001:db8::9]:4711", "127.0.0.1:1", "[fe80::1]:2", "10.55.0.2:3", "[fd00:55::2]:4"}
	for range random.IntN(5) {
		client := netip.MustParseAddrPort(clients[random.IntN(len(clients))])
		switch random.IntN(8) {
		case 0, 1:
			b = toa.Append(b, client, toa.Unasked)
		case 2:
			b = toa.Append(b, client, toa.Legacy)
		case 3:
			b = append(b, 1)
		case 4:
			b = append(b, "\x08\x0a\x00\x00\x00\x01\x00\x00\x00\x02"...)
		case 5:
			b = append(b, byte([]int{0, 2, 5, 253, 254}[random.IntN(5)]), byte(random.IntN(24)))
		case 6:
			b = toa.AppendOffer(b)
		case 7:
			kind := byte(random.IntN(256))
			if kind != 19 && kind != 29 {
				b = append(b, kind, 2+byte(random.IntN(3)), byte(random.IntN(3)))
			}
		}
	}
	b = b[:min(len(b), 40)]
	if len(b) > 2 && random.IntN(4) == 0 {
		b[random.IntN(len(b))] ^= 1 << random.IntN(3)
	}
	for len(b)%4 != 0 {
		b = append(b, byte(random.IntN(2)))
	}
	for i := range b {
		if b[i] == 19 || b[i] == 29 {
			b[i]++
		}
	}
	return b
}

// goodOptions returns options that carry a client, a multiple of four bytes long.
func goodOptions() []byte {
	b := toa.Append(nil, netip.MustParseAddrPort("203.0.113.9:4711"), toa.Unasked)
	for len(b)%4 != 0 {
		b = append(b, 1)
	}
	return b
}

// isWellFormed reports whether no option is cut off or shorter than 2 bytes. Kernels with
// TCP-AO drop segments with such options, before the gate (tcp_parse_auth_options).
func isWellFormed(b []byte) bool {
	for len(b) > 0 && b[0] != 0 {
		switch {
		case b[0] == 1:
			b = b[1:]
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return false
		default:
			b = b[b[1]:]
		}
	}
	return true
}

// wantClient is what the server must show for options over a link to the server's address;
// invalid: it must not accept.
func wantClient(options []byte, legacy bool, server netip.Addr, dualStack bool) netip.AddrPort {
	client, _ := toa.Find(options, legacy)
	a := client.Addr()
	denied := a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.Is4In6() || a.Is6() && a.IsLinkLocalUnicast() ||
		a == server || a.Is4() && (a.As4()[0] == 0 || a.As4() == [4]byte{255, 255, 255, 255})
	if denied || a.Is6() && !dualStack {
		return netip.AddrPort{}
	}
	return client
}

// trial is a handshake with random options.
type trial struct {
	options []byte
	client  netip.AddrPort // that the server must show; invalid: it must not accept
	strict  bool           // well-formed, so the kernel itself has no reason to drop it
}

// handshakes makes a handshake for each trial. The data of the final ACK is the number of
// the trial.
func (g *rawGateway) handshakes(trials []trial) {
	for i := range trials {
		g.segment(rawFirstPort+uint16(i), 0, 0, 0x02, nil, nil)
	}
	done := map[int]bool{}
	for len(done) < len(trials) {
		a := await.Receive(g.t, "a SYN-ACK", g.answers)
		i := int(a.port) - rawFirstPort
		if i < 0 || i >= len(trials) || done[i] {
			continue
		}
		done[i] = true
		g.segment(a.port, 1, a.sequence+1, 0x18, trials[i].options, fmt.Appendln(nil, i))
	}
}

// check receives the connections of the trials and compares what the server sees.
func (s *toaServer) check(t *testing.T, r *toaRig, trials []trial) {
	t.Helper()
	waiting, judged := 0, uint64(0)
	for _, one := range trials {
		if one.strict {
			judged++
		}
		if one.strict && one.client.IsValid() {
			waiting++
		}
	}
	if waiting < len(trials)/20 || waiting > len(trials)*19/20 {
		t.Fatalf("%d of %d trials carry a client: they test little", waiting, len(trials))
	}
	await.Until(t, "all segments are judged", func() bool {
		c := r.counters(t)
		return c["taken"]+c["unknown"]+c["dropped_missing"]+c["dropped_denied"]+c["dropped_family"] >= judged
	})
	for received := int64(0); waiting > 0 || received < s.accepted.Load(); received++ {
		c := s.next(t)
		var i int
		fmt.Sscan(c.line, &i)
		if trials[i].strict {
			waiting--
		}
		if c.peer != trials[i].client {
			t.Errorf("options % x: the server sees %v, want %v", trials[i].options, c.peer, trials[i].client)
		}
	}
}

// Handshakes with random options, with the kernel's own stack between gate and server: the
// gate passes those that carry a client that can be, and the server shows it. So the gate's
// parser, the kernel's and toa.Find agree; none is accepted as the gateway or as 0.0.0.0.
func TestTOARandomOptions(t *testing.T) {
	for _, tt := range []struct {
		network, from, to, cookies string
		legacy                     bool
	}{
		{"tcp", "10.55.0.77", toaServer4, "0", false},
		{"tcp4", "10.55.0.77", toaServer4, "2", true},
		{"tcp", "fd00:55::77", toaServer6, "0", true},
		{"tcp", "fd00:55::77", toaServer6, "2", false},
	} {
		t.Run(fmt.Sprintf("%s cookies %s legacy %v", tt.from, tt.cookies, tt.legacy), func(t *testing.T) {
			t.Parallel()
			netns.RunAsRoot(t, func(t *testing.T) {
				r := newTOARig(t)
				r.host.Sysctl(t, "net.ipv4.tcp_syncookies", tt.cookies)
				// Else the kernel drops segments whose timestamps it did not send.
				r.host.Sysctl(t, "net.ipv4.tcp_timestamps", "0")
				flags := []string{"--from", tt.from, "--port", fmt.Sprint(toaPort)}
				if tt.legacy {
					flags = append(flags, "--legacy")
				}
				r.attach(t, flags...)
				s := r.listen(t, tt.network, fmt.Sprintf(":%d", toaPort), nil)
				g := newRawGateway(t, r, tt.from, tt.to)
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				random := rand.New(rand.NewPCG(seed, 0))
				trials := make([]trial, 600)
				for i := range trials {
					options := randomOptions(random)
					if i%8 == 0 { // enough carry a client whatever the seed
						options = slices.Concat(goodOptions(), options)[:min(40, len(goodOptions())+len(options))]
					}
					client := wantClient(options, tt.legacy, g.to, tt.network == "tcp")
					trials[i] = trial{options, client, isWellFormed(options)}
				}
				g.handshakes(trials)
				s.check(t, r, trials)
				if got := r.counters(t)["unknown"]; got != 0 {
					t.Errorf("%d connections passed the gate and had no client", got)
				}
			})
		})
	}
}

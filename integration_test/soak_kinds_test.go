package integration_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
)

// soakKind is traffic of one kind: so many goroutines call once again and again.
type soakKind struct {
	name    string
	workers int
	once    func(s *soak) error
}

// soakKinds lists all kinds but those that a step of the soak makes at once: idle connections, clients
// that vanish, and datagrams.
func soakKinds() []soakKind {
	return []soakKind{
		{"short exchanges", 6, func(s *soak) error {
			return s.exchange(duplex{up: rand.IntN(4000), down: rand.IntN(4000), piece: 4000})
		}},
		{"bulk", 1, func(s *soak) error {
			return s.exchange(duplex{up: rand.IntN(4 << 20), down: rand.IntN(4 << 20), piece: 64 << 10})
		}},
		{"slow readers and writers", 4, func(s *soak) error {
			return s.exchange(duplex{up: rand.IntN(300_000), down: 300_000, piece: 2000 + rand.IntN(6000), pause: time.Millisecond})
		}},
		{"resets", 3, (*soak).breakOff},
		{"floods of half-open connections", 1, (*soak).halfOpen},
		{"no header", 1, (*soak).noHeader},
		{"untrusted peers", 1, func(s *soak) error { return s.rejected("127.7.0.1", lab.V2(client4, dest4)) }},
		{"other protocols", 1, func(s *soak) error { return s.rejected("", []byte("GET / HTTP/1.0\r\n\r\n")) }},
	}
}

// dial connects to the gateway from a trusted address, by default any of many, so that there are ports.
func (s *soak) dial(source string) (*net.TCPConn, error) {
	if source == "" {
		source = netip.AddrFrom4([4]byte{127, 0, byte(1 + rand.IntN(200)), byte(1 + rand.IntN(200))}).String()
	}
	d := net.Dialer{Timeout: await.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, KeepAlive: -1}
	c, err := d.Dial("tcp", soakFront)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(s.end.Add(await.Patience))
}

// exchange makes a connection that must end cleanly.
func (s *soak) exchange(x duplex) error {
	x.id = s.ids.Add(1)
	c, err := s.dial("")
	if err != nil {
		return err
	}
	defer c.Close()
	return x.run(c, &s.clients)
}

// breakOff resets a connection somewhere in its header or payload.
func (s *soak) breakOff() error {
	x := duplex{id: s.ids.Add(1), up: 1 << 20, down: 1 << 20}
	c, err := s.dial("")
	if err != nil {
		return err
	}
	all := append(x.header(), x.prologue()...)
	n := rand.IntN(2 * len(all))
	c.Write(all[:min(n, len(all))])
	if n >= len(all) {
		io.CopyN(c, x.pattern(true), rand.Int64N(10_000))
	}
	c.SetLinger(0)
	return c.Close()
}

// noHeader closes a connection before a header.
func (s *soak) noHeader() error {
	c, err := s.dial("")
	if err != nil {
		return err
	}
	return c.Close()
}

// rejected makes a connection that must end without an answer.
func (s *soak) rejected(source string, b []byte) error {
	c, err := s.dial(source)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write(b) // fails if the reset is faster
	if answer, err := io.ReadAll(c); len(answer) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%.40q from %q is answered by %.40q and %v", b, source, answer, err)
	}
	return nil
}

// halfOpen sends SYNs, the answers to which the packet filter drops.
func (s *soak) halfOpen() error {
	for range 100 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 8, byte(rand.IntN(256)), byte(1 + rand.IntN(250))}}
		if err := unix.Bind(fd, from); err != nil {
			unix.Close(fd)
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 2000})
		unix.Close(fd)
		if err != unix.EINPROGRESS {
			return fmt.Errorf("a SYN without an answer: %w", err)
		}
	}
	return nil
}

// openIdle opens a quarter of the idle connections, if they are not all open.
func (s *soak) openIdle() {
	s.Helper()
	for range min(s.size.idle-s.idle, s.size.idle/4) {
		s.idle++
		x := duplex{id: s.ids.Add(1), up: 16, down: 16, piece: 16, hold: s.release}
		c, err := s.dial("")
		if err != nil {
			s.Fatal(err)
		}
		s.held.Go(func() {
			defer s.released.Add(1)
			defer c.Close()
			if err := x.run(c, &s.clients); err != nil {
				s.Errorf("an idle connection: %v", err)
			}
		})
	}
}

// vanish has clients open connections, half of them with bytes under way to them, and then drops all
// their packets.
func (s *soak) vanish() {
	s.Helper()
	if s.batches == 256 {
		return // no address is left
	}
	network := fmt.Sprintf("127.1.%d.", s.batches)
	s.batches++
	for i := range vanishing {
		x := duplex{id: s.ids.Add(1), up: 1 << 20, down: i % 2 << 20}
		c, err := s.dial(network + fmt.Sprint(1+i))
		if err != nil {
			s.Fatal(err)
		}
		defer c.Close() // its FIN is dropped
		s.gone = append(s.gone, x.client())
		write(s.T, c, append(x.header(), x.prologue()...))
		if _, err := io.CopyN(io.Discard, c, int64(min(x.down, 1))); err != nil {
			s.Fatal(err)
		}
	}
	lab.Output(s.T, "nft", "add element inet soak gone { "+network+"0/24 }")
}

// reload succeeds.
func (s *soak) reload() {
	s.Helper()
	rewrite(s.T, s.trust, soakTrust)
	s.reloads++
	s.signal(syscall.SIGHUP)
	s.Gateway.WaitLogs(s.T, reloadedMessage, s.reloads)
}

// reloadBroken fails, and the list stays in force.
func (s *soak) reloadBroken() {
	s.Helper()
	rewrite(s.T, s.trust, soakTrust+"nobody\n")
	s.refused++
	s.signal(syscall.SIGHUP)
	s.Gateway.WaitLogs(s.T, failedMessage, s.refused)
	rewrite(s.T, s.trust, soakTrust) // an upgrade reads it again
}

package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"unproxy/integration_test/lab"
)

// soakFront is the gateway's address in the soak, soakBack its backend's.
const (
	soakFront = "127.0.0.1:2000"
	soakBack  = "127.0.0.1:3000"
)

// prologueLength is the length of what every stream begins with: its number, and how many bytes
// follow in each direction.
const prologueLength = 24

// duplex is one connection of the soak. Both sides know the bytes of its streams, and count them.
type duplex struct {
	id       uint64
	up, down int

	// The client's pace: it writes and reads pieces of this size, with a pause after each.
	piece int
	pause time.Duration
	// hold, if it is not nil, has a value when the client may send its last bytes.
	hold <-chan struct{}
}

// client is the address in the header, which no other exchange has.
func (x *duplex) client() netip.AddrPort {
	if x.id%2 == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(x.id >> 16), byte(x.id >> 8), byte(x.id)}), 1)
	}
	address := netip.MustParseAddr("2001:db8::").As16()
	binary.BigEndian.PutUint64(address[8:], x.id)
	return netip.AddrPortFrom(netip.AddrFrom16(address), 1)
}

// header is in either version.
func (x *duplex) header() []byte {
	destination := dest4
	if x.id%2 == 1 {
		destination = dest6
	}
	if x.id%3 == 0 {
		return lab.V1(x.client(), destination)
	}
	return lab.V2(x.client(), destination)
}

func (x *duplex) prologue() []byte {
	b := binary.BigEndian.AppendUint64(nil, x.id)
	b = binary.BigEndian.AppendUint64(b, uint64(x.up))
	return binary.BigEndian.AppendUint64(b, uint64(x.down))
}

// pattern returns the bytes of an exchange's stream: up, or else down.
func (x *duplex) pattern(up bool) io.Reader {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], x.id)
	if up {
		seed[8] = 1
	}
	return rand.NewChaCha8(seed)
}

// transfer is how many bytes one side of an exchange has sent and received.
type transfer struct{ Sent, Received int }

// ledger has the exchanges that one side has finished. It is safe for concurrent use.
type ledger struct {
	mu       sync.Mutex
	finished map[uint64]transfer
}

func (l *ledger) add(id uint64, t transfer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished == nil {
		l.finished = map[uint64]transfer{}
	}
	l.finished[id] = t
}

// serveExchanges is the soak's backend. Connections that are broken off are in no ledger. wrong gets
// an error for each byte that is not what the client sent.
func serveExchanges(l *ledger, wrong func(error)) func(net.Conn) {
	return func(c net.Conn) {
		prologue := make([]byte, prologueLength)
		if _, err := io.ReadFull(c, prologue); err != nil {
			return
		}
		x := &duplex{id: binary.BigEndian.Uint64(prologue), up: int(binary.BigEndian.Uint64(prologue[8:])),
			down: int(binary.BigEndian.Uint64(prologue[16:]))}
		x.piece = min(32<<10, max(x.up, x.down, 1))
		var sent int
		var sending sync.WaitGroup
		sending.Go(func() {
			sent, _ = x.send(c, x.pattern(false), x.down)
			c.(*net.TCPConn).CloseWrite()
		})
		received, err := x.receive(c, x.pattern(true))
		sending.Wait()
		if err != nil {
			wrong(fmt.Errorf("the backend of %v: %w", x.client(), err))
		}
		if received == x.up && sent == x.down {
			l.add(x.id, transfer{Sent: sent, Received: prologueLength + received})
		}
	}
}

// run is the client's side of a whole exchange over an open connection.
func (x *duplex) run(c *net.TCPConn, l *ledger) error {
	if _, err := c.Write(append(x.header(), x.prologue()...)); err != nil {
		return err
	}
	var sent int
	failed := make(chan error, 1)
	go func() {
		var err error
		sent, err = x.sendHeld(c)
		failed <- err
	}()
	received, err := x.receive(c, x.pattern(false))
	if err := <-failed; err != nil {
		return fmt.Errorf("client %v sent %d of %d bytes: %w", x.client(), sent, x.up, err)
	}
	if err != nil || received != x.down {
		return fmt.Errorf("client %v received %d of %d bytes: %w", x.client(), received, x.down, err)
	}
	l.add(x.id, transfer{Sent: prologueLength + sent, Received: received})
	return nil
}

// sendHeld sends the client's bytes and a FIN, the second half when it may.
func (x *duplex) sendHeld(c *net.TCPConn) (int, error) {
	pattern, first := x.pattern(true), x.up
	if x.hold != nil {
		first = x.up / 2
	}
	sent, err := x.send(c, pattern, first)
	if err == nil && x.hold != nil {
		<-x.hold
		var rest int
		rest, err = x.send(c, pattern, x.up-first)
		sent += rest
	}
	if err != nil {
		return sent, err
	}
	return sent, c.CloseWrite()
}

// send writes n bytes of a pattern in pieces.
func (x *duplex) send(w io.Writer, pattern io.Reader, n int) (sent int, err error) {
	b := make([]byte, x.piece)
	for sent < n && err == nil {
		b = b[:min(len(b), n-sent)]
		io.ReadFull(pattern, b)
		var written int
		written, err = w.Write(b)
		sent += written
		time.Sleep(x.pause)
	}
	return sent, err
}

// receive reads to the end of the stream and compares it with the pattern. A stream that breaks off is
// no error, it is too short.
func (x *duplex) receive(r io.Reader, pattern io.Reader) (received int, err error) {
	b, want := make([]byte, x.piece), make([]byte, x.piece)
	for {
		n, err := r.Read(b)
		io.ReadFull(pattern, want[:n])
		if !bytes.Equal(b[:n], want[:n]) {
			return received, fmt.Errorf("other bytes than were sent, after %d bytes", received)
		}
		if received += n; err != nil {
			return received, nil
		}
		time.Sleep(x.pause)
	}
}

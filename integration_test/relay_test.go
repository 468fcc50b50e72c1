package integration_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// session opens a connection through a new gateway and returns both ends:
//
//	conn ──header──▶ gateway :2000 ──▶ behind :3000
func session(t *testing.T, flags ...string) (g *lab.Gateway, conn, behind *net.TCPConn) {
	t.Helper()
	backend := lab.Listen(t, "127.0.0.1:3000")
	g = plainGateway(t, flags...)
	conn = lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
	return g, conn, backend.Next(t)
}

// A FIN is forwarded as a FIN, one direction at a time: the data of the other side still
// arrives.
func TestHalfClose(t *testing.T) {
	answer := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, first := range []string{"client", "backend"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				g, conn, behind := session(t)
				quiet, talking := conn, behind
				if first == "backend" {
					quiet, talking = behind, conn
				}
				write(t, quiet, []byte("that is all"))
				quiet.CloseWrite()
				if got, err := io.ReadAll(talking); err != nil || string(got) != "that is all" {
					t.Fatalf("read %q, %v", got, err)
				}
				go func() {
					talking.Write(answer)
					talking.CloseWrite()
				}()
				if got, err := io.ReadAll(quiet); err != nil || !bytes.Equal(got, answer) {
					t.Errorf("read %d bytes and %v after the half-close, want %d", len(got), err, len(answer))
				}
				g.NextConnection(t).Expect(t, "outcome", "ok", "phase", "relay")
			})
		})
	}
}

// An RST is forwarded as an RST.
func TestReset(t *testing.T) {
	for _, who := range []string{"client", "backend"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				g, conn, behind := session(t)
				write(t, conn, []byte("ping"))
				wantRead(t, behind, "ping")
				if who == "client" {
					reset(t, conn)
					wantReset(t, behind)
				} else {
					reset(t, behind)
					wantReset(t, conn)
				}
				g.NextConnection(t).Expect(t, "outcome", "reset", "phase", "relay", "by", who)
			})
		})
	}
}

// An RST after a FIN from the same side is forwarded too: the other side's writes fail.
func TestResetAfterHalfClose(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t)
		conn.CloseWrite()
		wantClosed(t, behind)
		reset(t, conn)
		await.Until(t, "the backend's writes fail", func() bool {
			_, err := behind.Write([]byte("still sending"))
			return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		})
		g.NextConnection(t).Expect(t, "outcome", "reset", "phase", "relay")
	})
}

// 300 MB in each direction at the same time, with slow readers, arrive unchanged.
func TestBulkArrivesUnchanged(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t)
		const size = 300 << 20
		type result struct {
			way       string
			sent, got [sha256.Size]byte
			err       error
		}
		results := make(chan result, 2)
		carry := func(way string, seed uint64, from, to *net.TCPConn) {
			from.SetDeadline(await.Deadline(t))
			to.SetDeadline(await.Deadline(t))
			to.SetReadBuffer(64 << 10)
			sent := make(chan [sha256.Size]byte, 1)
			go func() {
				sum := sha256.New()
				io.Copy(io.MultiWriter(from, sum), &stream{left: size, seed: seed})
				from.CloseWrite()
				sent <- [sha256.Size]byte(sum.Sum(nil))
			}()
			sum := sha256.New()
			_, err := io.Copy(sum, slowly{to})
			results <- result{way, <-sent, [sha256.Size]byte(sum.Sum(nil)), err}
		}
		go carry("in", 1, conn, behind)
		go carry("out", 2, behind, conn)
		for range 2 {
			if r := <-results; r.err != nil || r.sent != r.got {
				t.Errorf("%s: the bytes that arrived differ from those that were sent, or %v", r.way, r.err)
			}
		}
		g.NextConnection(t).Expect(t, "outcome", "ok", "bytes_in", fmt.Sprint(size),
			"bytes_out", fmt.Sprint(size))
	})
}

// stream is a sequence of different blocks, so a lost, repeated or misplaced block
// changes the sum.
type stream struct {
	left int
	seed uint64
}

func (s *stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), s.left)
	for i := 0; i+8 <= n; i += 64 {
		s.seed = s.seed*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(b[i:], s.seed)
	}
	s.left -= n
	return n, nil
}

// slowly pauses between some reads, so the buffers before it fill.
type slowly struct{ io.Reader }

func (s slowly) Read(b []byte) (int, error) {
	if b[0]&0x3f == 0 {
		time.Sleep(time.Millisecond)
	}
	return s.Reader.Read(b)
}

// A connection without traffic for --idle-timeout ends. One with traffic in between does
// not.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t, "--idle-timeout", "3s")
		busy := lab.Send(t, "127.0.0.1:2000", lab.V2(client6, dest6)) // its backend only reads
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			io.ReadAll(conn)
			io.ReadAll(behind)
		}()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for idle := true; idle; {
			select {
			case <-ended:
				idle = false
			case <-tick.C:
				write(t, busy, []byte("x"))
			}
		}
		g.NextConnection(t).Expect(t, "outcome", "idle_timeout", "phase", "relay", "by", "timeout",
			"client", client4.String())
		write(t, busy, []byte("x"))
		reset(t, busy)
		g.NextConnection(t).Expect(t, "outcome", "reset", "client", client6.String())
	})
}

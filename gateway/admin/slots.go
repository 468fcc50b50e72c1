package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxConnections is how many connections an endpoint serves at a time.
	maxConnections = 16
	// maxWorking is how many of them may be at work for anything but a probe. The
	// others are kept for /healthz, /readyz and /metrics.
	maxWorking = 12
)

// Descriptors is how many file descriptors an endpoint may hold: connections, the
// listener, and one for the accept in progress. The gateway reserves them.
const Descriptors = maxConnections + 2

// slots is a listener with a limit on the number of open connections. At the limit, a
// new connection takes the place of one that waits for its client: for a request, the
// rest of one, or until it reads the answer. Of the peer with most connections, the one
// that has waited longest is closed. A connection with a handler at work is never closed.
type slots struct {
	net.Listener
	limit int
	now   func() time.Time

	mu      sync.Mutex
	changed sync.Cond // a connection was closed, or began to wait
	open    map[*conn]struct{}
	closed  bool
}

func newSlots(l net.Listener, limit int) *slots {
	s := &slots{Listener: l, limit: limit, now: time.Now, open: map[*conn]struct{}{}}
	s.changed.L = &s.mu
	return s
}

// Accept waits for a connection, and until it has a slot.
func (s *slots) Accept() (net.Conn, error) {
	accepted, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.open) >= s.limit && !s.closed {
		if c := s.longestWaiting(); c != nil {
			delete(s.open, c)
			c.Conn.Close()
			continue
		}
		s.changed.Wait()
	}
	if s.closed {
		accepted.Close()
		return nil, net.ErrClosed
	}
	c := &conn{Conn: accepted, slots: s, peer: peerOf(accepted), since: s.now()}
	s.open[c] = struct{}{}
	return c, nil
}

// longestWaiting returns the connection to close for a new one, or nil.
func (s *slots) longestWaiting() (found *conn) {
	held := map[netip.Addr]int{}
	for c := range s.open {
		held[c.peer]++
	}
	for c := range s.open {
		if c.isWorking() {
			continue
		}
		if found == nil || held[c.peer] > held[found.peer] ||
			held[c.peer] == held[found.peer] && c.since.Before(found.since) {
			found = c
		}
	}
	return found
}

// Close closes the listener. It does not close connections.
func (s *slots) Close() error {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	return s.Listener.Close()
}

// peerOf returns the address of a connection's other end, the zero value for a unix
// socket.
func peerOf(c net.Conn) netip.Addr {
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// conn is a connection of slots, whose lock guards its fields.
type conn struct {
	net.Conn
	slots   *slots
	peer    netip.Addr
	since   time.Time // when it was accepted, or when a handler or a write ended
	handled bool      // a handler has not returned
	probe   bool      // and it answers a probe
	writing int       // writes in progress
}

// isWorking reports whether the client waits for a handler, not the other way round.
func (c *conn) isWorking() bool { return c.handled && c.writing == 0 }

// Write writes to the client, which may be slow to read.
func (c *conn) Write(b []byte) (int, error) {
	c.change(func() { c.writing++ })
	defer c.change(func() { c.writing-- })
	return c.Conn.Write(b)
}

// Close closes the connection and frees its slot.
func (c *conn) Close() error {
	c.change(func() { delete(c.slots.open, c) })
	return c.Conn.Close()
}

// change changes the state of the connection.
func (c *conn) change(do func()) {
	c.slots.mu.Lock()
	defer c.slots.mu.Unlock()
	do()
	c.since = c.slots.now()
	c.slots.changed.Broadcast()
}

// begin notes that a handler starts; false is that too many are at work already.
func (c *conn) begin(probe bool) (ok bool) {
	c.change(func() {
		working := 0
		for other := range c.slots.open {
			if other.isWorking() && !other.probe {
				working++
			}
		}
		if ok = probe || working < maxWorking; ok {
			c.handled, c.probe = true, probe
		}
	})
	return ok
}

func (c *conn) end() { c.change(func() { c.handled = false }) }

// connKey is the key of a request's connection in its context.
type connKey struct{}

// withConn is the [http.Server.ConnContext] that [inSlots] needs.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// inSlots tells the slots when a handler is at work, and refuses a request while too
// many are.
func inSlots(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			if !c.begin(isProbe(r)) {
				writeError(w, http.StatusServiceUnavailable, "too many requests at a time")
				return
			}
			defer c.end()
		}
		next.ServeHTTP(w, r)
	})
}

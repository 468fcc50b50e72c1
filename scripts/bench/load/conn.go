package load

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one connection.
type conn struct {
	fd     int32
	number int32 // index among the load's connections
	group  int32
	begun  bool // header and first request were sent
	seen   bool // this connection or its predecessor got a response
	events uint32
	left   int           // bytes of the request that are not sent yet
	got    int           // bytes of the response so far
	since  time.Duration // when the request was sent, on the load's clock
}

// wanted returns the events that a connection waits for.
func (c *conn) wanted(w Work) uint32 {
	switch {
	case !c.begun, c.left > 0, w == Both:
		return unix.EPOLLIN | unix.EPOLLOUT
	case w == Up:
		return unix.EPOLLOUT
	case w == Blocked:
		return 0 // errors are reported nevertheless
	}
	return unix.EPOLLIN
}

// begin sends the header and, in the same segment, a request or the byte that selects the
// work.
func (l *Load) begin(c *conn) error {
	g := l.groups[c.group]
	if g.Work == Untrusted {
		c.begun = true
		return nil
	}
	if !g.Work.once() { // else nothing is in flight when it sends
		if err := setOption(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil {
			return err
		}
		c.since = l.now()
	}
	b := l.first[:0]
	if l.config.Header != NoHeader {
		b = appendHeader(b, l.config.Header, l.config.Clients.Next(), l.config.Gateway)
	}
	header := len(b)
	size := 1
	if g.Work.answers() {
		size = g.Size
	}
	b = append(b, l.bytes[g.Work.request()][:size]...)
	n, errno := send(c.fd, b)
	if errno != 0 {
		return errno
	}
	if n < header {
		return fmt.Errorf("only %d bytes of a header could be sent", n)
	}
	c.begun, c.left = true, len(b)-n
	return nil
}

// serve handles the events of a connection. After an error the connection is unusable.
func (l *Load) serve(c *conn, events uint32) error {
	w := l.groups[c.group].Work
	if !c.begun {
		if err := l.late(c, w); err != nil || !c.begun {
			return err
		}
	}
	switch w {
	case Untrusted, Denied:
		return l.refusal(c)
	case Blocked:
		if err := connectError(c.fd); err != nil {
			return err
		}
		return fmt.Errorf("the connection of a slow reader ended")
	case Down:
		return l.drain(c)
	case Up:
		return l.pour(c, w)
	case Both:
		if events&unix.EPOLLOUT != 0 {
			if err := l.pour(c, w); err != nil {
				return err
			}
		}
		if events&unix.EPOLLIN != 0 {
			return l.drain(c)
		}
		return nil
	}
	if c.left > 0 && events&unix.EPOLLOUT != 0 {
		if err := l.request(c, c.left); err != nil {
			return err
		}
	}
	if events&^unix.EPOLLOUT != 0 {
		return l.answer(c)
	}
	return nil
}

// late begins a connection that was established after connect(2) returned.
func (l *Load) late(c *conn, w Work) error {
	if err := connectError(c.fd); err != nil {
		return err
	}
	if err := l.begin(c); err != nil {
		return fmt.Errorf("send the first bytes: %w", err)
	}
	return l.rearm(c, w)
}

// rearm updates the events that a connection waits for, if they changed.
func (l *Load) rearm(c *conn, w Work) error {
	events := c.wanted(w)
	if events == c.events {
		return nil
	}
	c.events = events
	return l.poll.control(unix.EPOLL_CTL_MOD, int(c.fd), events, c.number)
}

// request sends the rest of a request.
func (l *Load) request(c *conn, left int) error {
	n, errno := send(c.fd, l.bytes[askEcho][:left])
	if errno != 0 && errno != unix.EAGAIN {
		return fmt.Errorf("send a request: %w", errno)
	}
	c.left = left - n
	return l.rearm(c, l.groups[c.group].Work)
}

// answer receives a part of a response. After the last byte it sends the next request or
// opens the next connection.
func (l *Load) answer(c *conn) error {
	g := &l.groups[c.group]
	n, errno := receive(c.fd, l.in[:max(1, g.Size-c.got)])
	if errno == unix.EAGAIN {
		return nil
	}
	if err := ended(n, errno, "an answer"); err != nil {
		return err
	}
	c.got += n
	if c.got < g.Size {
		return nil
	}
	if c.got > g.Size {
		return fmt.Errorf("a response of %d bytes to a request of %d", c.got, g.Size)
	}
	now := l.answered(c)
	switch g.Work {
	case Connect:
		return l.again(c)
	case PingPong:
		c.got, c.since = 0, now
		if !l.opening {
			return l.request(c, g.Size)
		}
	}
	return nil
}

// answered counts a response and returns when it came.
func (l *Load) answered(c *conn) time.Duration {
	now, count := l.now(), &l.counts[c.group]
	count.Answers++
	count.Latency.Add(now - c.since)
	if !c.seen {
		c.seen = true
		l.ready++
	}
	return now
}

// refusal waits for the end of a connection, which must come without data, and opens the next.
func (l *Load) refusal(c *conn) error {
	n, errno := receive(c.fd, l.in[:1])
	switch {
	case errno == unix.EAGAIN:
		return nil
	case errno != 0 && errno != unix.ECONNRESET:
		return fmt.Errorf("wait for the refusal: %w", errno)
	case n > 0:
		return errors.New("the connection got an answer instead of a refusal")
	}
	l.answered(c)
	return l.again(c)
}

// drain receives from a backend that sends without end.
func (l *Load) drain(c *conn) error {
	n, errno := receive(c.fd, l.in[:bulk])
	if errno == unix.EAGAIN {
		return nil
	}
	if err := ended(n, errno, "bulk"); err != nil {
		return err
	}
	l.counts[c.group].Bytes += uint64(n)
	return nil
}

// pour sends without end.
func (l *Load) pour(c *conn, w Work) error {
	n, errno := send(c.fd, l.bytes[w.request()][:bulk])
	if errno != 0 && errno != unix.EAGAIN {
		return fmt.Errorf("send in bulk: %w", errno)
	}
	l.counts[c.group].Bytes += uint64(n)
	return nil
}

// ended returns the error of a connection that ended before it received something.
func ended(n int, errno syscall.Errno, what string) error {
	if errno != 0 {
		return fmt.Errorf("receive %s: %w", what, errno)
	}
	if n == 0 {
		return fmt.Errorf("the connection was closed before %s", what)
	}
	return nil
}

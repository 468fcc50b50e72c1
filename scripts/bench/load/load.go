package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Config is the destination of a load's connections and their headers.
type Config struct {
	// Gateway is an IPv4 address.
	Gateway netip.AddrPort
	Header  Header
	// Clients generates the clients in the headers.
	Clients *Clients
}

// Load is a number of connections to a gateway. Only one goroutine may call its methods. It
// must be locked to its thread, which waits in raw system calls for a few milliseconds at
// a time.
type Load struct {
	config Config
	groups []Group
	counts []Count
	conns  []conn
	poll   *poll

	to      unix.RawSockaddrInet4
	opening bool // [PingPong] waits until all connections are open
	opened  int  // number of opened connections, for their source addresses
	ready   int  // number of connections with a first response, of those that Open waits for
	errors  int
	failure error // the first error
	start   time.Time
	first   []byte            // buffer for a header and the first request
	bytes   [askUp + 1][]byte // data to send, by the byte of the work
	in      []byte            // receive buffer
}

// Peers has the addresses that connections come from, except those of [Untrusted].
var Peers = netip.MustParsePrefix("127.0.0.0/24")

const (
	bulk        = 256 << 10 // bytes per read or write of work without responses
	sources     = 200       // the addresses 127.0.0.2 to 127.0.0.201
	strangers   = 1 << 16   // the untrusted ones, 127.1.0.2 to 127.1.0.201, are so far behind
	atOnce      = 200       // connections that Open opens before their first response
	mostErrors  = 1000      // more end the run
	waitAtMost  = 20        // milliseconds
	headerSpace = 512
)

// New returns a load with groups of connections, which are not open yet.
func New(c Config, groups ...Group) (*Load, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	l := &Load{
		config: c, groups: groups, counts: make([]Count, len(groups)), poll: p, start: time.Now(),
		to: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: c.Gateway.Addr().As4()},
	}
	port := c.Gateway.Port()
	l.to.Port = port<<8 | port>>8
	longest := bulk
	for i, g := range groups {
		longest = max(longest, g.Size)
		for range g.Connections {
			l.conns = append(l.conns, conn{fd: -1, group: int32(i), number: int32(len(l.conns))})
		}
	}
	l.in, l.first = make([]byte, longest), make([]byte, 0, longest+headerSpace)
	for _, ask := range []byte{askEcho, askDown, askUp, askBoth} {
		l.bytes[ask] = make([]byte, longest)
		for i := range l.bytes[ask] {
			l.bytes[ask][i] = ask
		}
	}
	return l, nil
}

// Open opens the connections, group by group, waits for the first response on each that has
// responses, then starts the ping-pong. It fails if no response arrives for patience.
func (l *Load) Open(patience time.Duration) error {
	l.opening = true
	waited, last := 0, l.now()
	for next := 0; next < len(l.conns) || l.ready < waited; {
		for next < len(l.conns) && waited-l.ready < atOnce {
			c := &l.conns[next]
			next++
			if l.groups[c.group].Work.answers() {
				waited++
			}
			if err := l.open(c); err != nil {
				return err
			}
		}
		ready := l.ready
		if err := l.turn(); err != nil {
			return err
		}
		if l.ready != ready {
			last = l.now()
		}
		if l.now()-last > patience {
			return l.silence(patience)
		}
	}
	l.opening = false
	for i := range l.conns {
		if c := &l.conns[i]; l.groups[c.group].Work == PingPong {
			c.since = l.now()
			if err := l.request(c, l.groups[c.group].Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// silence returns the error of a load for which no response arrived for patience.
func (l *Load) silence(patience time.Duration) error {
	err := fmt.Errorf("%d of %d connections had a response, then none for %v", l.ready, len(l.conns), patience)
	if l.failure != nil {
		err = fmt.Errorf("%w; %d failed, the first: %w", err, l.errors, l.failure)
	}
	return err
}

// Held returns the number of connections that had a response.
func (l *Load) Held() int { return l.ready }

// Run runs the load for d and returns how long it took.
func (l *Load) Run(d time.Duration) (time.Duration, error) {
	start := l.now()
	for l.now()-start < d {
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	return l.now() - start, nil
}

// Reset resets all counts except errors.
func (l *Load) Reset() { clear(l.counts) }

// Counts returns the work of each group since Reset. The load keeps updating them.
func (l *Load) Counts() []Count { return l.counts }

// Errors returns the number of failed connections and the first error.
func (l *Load) Errors() (int, error) { return l.errors, l.failure }

// Close closes all connections.
func (l *Load) Close() {
	for i := range l.conns {
		if l.conns[i].fd >= 0 {
			closeDescriptor(l.conns[i].fd)
		}
	}
	unix.Close(l.poll.fd)
}

func (l *Load) now() time.Duration { return time.Since(l.start) }

// turn waits for events and handles them.
func (l *Load) turn() error {
	events, err := l.poll.wait(waitAtMost)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := l.serve(&l.conns[e.Fd], e.Events); err != nil {
			l.fail(err)
			if err := l.again(&l.conns[e.Fd]); err != nil {
				return err
			}
		}
	}
	if l.errors > mostErrors {
		return fmt.Errorf("%d connections are ready, more than %d others failed, the first: %w", l.ready, mostErrors,
			l.failure)
	}
	return nil
}

func (l *Load) fail(err error) {
	l.errors++
	if l.failure == nil {
		l.failure = err
	}
}

// open opens a connection. If it is established at once, as on loopback, it begins.
func (l *Load) open(c *conn) error {
	*c = conn{fd: -1, group: c.group, number: c.number, seen: c.seen, since: l.now()}
	w := l.groups[c.group].Work
	source := unix.RawSockaddrInet4{Family: unix.AF_INET}
	address := 127<<24 + 2 + uint32(l.opened%sources)
	if w == Untrusted {
		address += strangers
	}
	binary.BigEndian.PutUint32(source.Addr[:], address)
	l.opened++
	fd, err := connectFrom(&source, &l.to)
	if err != nil {
		return err
	}
	c.fd = fd
	if err := l.begin(c); err != nil && !errors.Is(err, unix.EAGAIN) {
		l.fail(fmt.Errorf("send the first bytes: %w", err))
	}
	c.events = c.wanted(w)
	return l.poll.control(unix.EPOLL_CTL_ADD, int(fd), c.events, c.number)
}

// again closes a connection and opens a new one, except for idle ones.
func (l *Load) again(c *conn) error {
	closeDescriptor(c.fd)
	c.fd = -1
	if l.groups[c.group].Work == Idle {
		return nil
	}
	return l.open(c)
}

// connectError returns why connect(2) failed.
func connectError(fd int32) error {
	code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(code))
	}
	return nil
}

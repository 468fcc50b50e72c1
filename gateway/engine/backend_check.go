package engine

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/source"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

const (
	// checkTimeout bounds the connect of a check.
	checkTimeout = 5 * time.Second
	// maxChecks is how many checks of the same forward run at a time.
	maxChecks = 16
)

// checks are the goroutines that connect to backends, see [forward.Forward.BackendCheck] and
// [Backends.Failed].
type checks struct {
	connect func(context.Context, forward.Endpoint, Origin) error
	now     func() int64
	stop    context.CancelFunc
	running sync.WaitGroup
}

// start starts to check the backends of forwards.
func (c *checks) start(forwards []*forwardState) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for _, f := range forwards {
		b := f.backends
		if f.BackendCheck > 0 && !f.Datagrams {
			c.running.Go(func() { c.checkRegularly(ctx, b) })
		}
		if f.BackendRetry > 0 && f.ConnectsAsClient() && !f.Datagrams {
			c.running.Go(func() { c.testSuspects(ctx, b) })
		}
	}
}

// close ends the checks and waits for them.
func (c *checks) close() {
	c.stop()
	c.running.Wait()
}

// checkRegularly checks each backend of a forward every [forward.Forward.BackendCheck], spread
// over that time.
func (c *checks) checkRegularly(ctx context.Context, b *Backends) {
	free := make(chan struct{}, maxChecks)
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		all := b.endpoints()
		pause := b.forward.BackendCheck / time.Duration(max(1, len(all)))
		for _, e := range all {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			running.Go(func() {
				c.check(ctx, b, e)
				<-free
			})
			wait(ctx, pause)
		}
		if len(all) == 0 {
			wait(ctx, pause)
		}
	}
}

// check connects to a backend once and records the result.
func (c *checks) check(ctx context.Context, b *Backends, e forward.Endpoint) {
	err := c.test(ctx, e, b.forward)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		b.setDown(e, untilChecked, err)
	default:
		b.setUp(e, c.now())
	}
}

// testSuspects tests the backends that clients could not reach.
func (c *checks) testSuspects(ctx context.Context, b *Backends) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-b.suspects:
			c.testSuspect(ctx, b, e)
		}
	}
}

// testSuspect records that a backend is down if the gateway cannot reach it either.
func (c *checks) testSuspect(ctx context.Context, b *Backends, e forward.Endpoint) {
	if err := c.test(ctx, e, b.forward); err != nil && ctx.Err() == nil {
		b.setDown(e, c.now()+int64(b.forward.BackendRetry), err)
	}
}

// test connects to a backend from an address of the gateway and closes the connection. If clients'
// addresses travel in an option, it offers one.
func (c *checks) test(ctx context.Context, e forward.Endpoint, f *forward.Forward) error {
	timeout := checkTimeout
	if f.BackendCheck > 0 {
		timeout = min(timeout, f.BackendCheck)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var err error
	for _, from := range origins(e, f) {
		if err = c.connect(ctx, e, from); err != unix.EADDRNOTAVAIL { // no free port, or no longer this host's
			break
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return unix.ETIMEDOUT
	case err == unix.ECONNREFUSED && f.OnDemand:
		return nil
	}
	return err
}

// origins returns where a check of a backend may come from, in the order in which to try them.
func origins(e forward.Endpoint, f *forward.Forward) []Origin {
	if e.IsUnix() {
		return []Origin{{}}
	}
	var all []Origin
	for _, a := range source.Addresses(f.SourceAddresses, e.Addr.Addr().Is4()) {
		all = append(all, Origin{Address: a, Own: f.Source.Own, Mark: f.Mark, TOA: f.TOA})
	}
	if len(all) == 0 {
		all = append(all, Origin{Mark: f.Mark, TOA: f.TOA})
	}
	return all
}

// wait returns after d or when ctx is done.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// prepareCheck sets the options of a TCP socket before it connects. It withholds the ACK of the
// SYN-ACK (tcp_rcv_synsent_state_process), so that the RST of connectOwn comes first, and the
// backend's program sees nothing.
func prepareCheck(raw syscall.RawConn, to netip.AddrPort, from Origin) error {
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { errno = prepareCheckSocket(int(fd), to, from) }); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func prepareCheckSocket(fd int, to netip.AddrPort, from Origin) syscall.Errno {
	sockets := transparent.System{}
	if errno := sockets.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0); errno != 0 {
		return errno
	}
	if from.Mark != 0 {
		if errno := sockets.SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, int(from.Mark)); errno != 0 {
			return errno
		}
	}
	if from.Address.IsValid() {
		if errno := source.Bind(sockets, fd, from.Address, from.Own); errno != 0 {
			return errno
		}
	}
	if from.TOA.On {
		return offerClient(fd, to, from.TOA.Format)
	}
	return 0
}

// connectOwn connects to an endpoint from an address of this host.
func connectOwn(ctx context.Context, e forward.Endpoint, from Origin) error {
	var d net.Dialer
	network, address := "tcp", e.Addr.String()
	if e.IsUnix() {
		network, address = "unix", e.Path
	} else {
		d.Control = func(network, address string, raw syscall.RawConn) error {
			if err := kernel.ResetOnClose(network, address, raw); err != nil {
				return err
			}
			return prepareCheck(raw, e.Addr, from)
		}
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return reason(err)
	}
	defer conn.Close()
	if kernel.ConnectedToItself(conn) {
		return unix.ECONNREFUSED // nothing listens
	}
	if from.TOA.On && from.TOA.Format == toa.Negotiated && !e.IsUnix() {
		return checkPromise(conn.(*net.TCPConn))
	}
	return nil
}

// reason returns the error of the system call in an error of package net, or context.DeadlineExceeded
// for a timeout.
func reason(err error) error {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &timeout) && timeout.Timeout():
		return context.DeadlineExceeded
	}
	return err
}

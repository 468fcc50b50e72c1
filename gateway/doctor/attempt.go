package doctor

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// answerTime is the time that a backend has to answer. It allows for one
// retransmission, after a second, of a lost packet.
const answerTime = 1500 * time.Millisecond

// answer is the result of a connection attempt.
type answer uint8

const (
	answered    answer = iota
	refused            // by an RST, or because no program listens on a unix socket
	silent             // no answer in time
	unreachable        // this host or a router has no route
	forbidden          // a capability is missing, or a firewall of this host rejects it
	failed             // any other error
)

// answerOf classifies the error of an attempt.
func answerOf(err error) answer {
	switch {
	case err == nil:
		return answered
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, syscall.ETIMEDOUT):
		return silent
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EAFNOSUPPORT):
		return unreachable
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return forbidden
	}
	return failed
}

// try makes an attempt and waits up to answerTime. If the client's address and
// port are in use, it retries with others.
func (h Host) try(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	local, err := h.Connect(ctx, a)
	if a.From.IsValid() && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
		a.From = testClient(a.To.Addr().Is6())
		local, err = h.Connect(ctx, a)
	}
	return local, err
}

// The networks of test clients. They are reserved for documentation (RFC 5737,
// RFC 3849), so no real client is in them.
var (
	testNetwork4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2}), 24)
	testNetwork6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8}), 32)
)

// firstTestPort is the lowest port of a test client.
const firstTestPort = 1 << 15

// testClient returns a random client of the documentation networks.
func testClient(v6 bool) netip.AddrPort {
	port := uint16(firstTestPort + rand.IntN(1<<16-firstTestPort))
	if !v6 {
		a := testNetwork4.Addr().As4()
		a[3] = byte(1 + rand.IntN(254)) // without the network and broadcast addresses
		return netip.AddrPortFrom(netip.AddrFrom4(a), port)
	}
	a := testNetwork6.Addr().As16()
	for i := 8; i < len(a); i++ {
		a[i] = byte(1 + rand.IntN(255))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// testNetwork returns the network of a test client.
func testNetwork(client netip.AddrPort) netip.Prefix {
	if client.Addr().Is4() {
		return testNetwork4
	}
	return testNetwork6
}

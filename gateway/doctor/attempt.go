package doctor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"

	"unproxy/transparent"
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

// try makes an attempt and waits up to answerTime.
func (h Host) try(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return h.Connect(ctx, a)
}

// tryClient connects to a target from a client's address, and waits up to
// answerTime. sent is the address that the connection had when it left this host;
// see [Host.Connect]. If the client's address and port are in use, it retries with
// others.
func (h Host) tryClient(ctx context.Context, t *target) (client, sent netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for range 2 {
		client = transparent.TestClient(t.at.Addr().Is6())
		sent, err = h.Connect(ctx, Attempt{To: t.at, From: client, Mark: t.mark})
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
	}
	return client, sent, err
}

package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"

	"unproxy/gateway/admin"
	"unproxy/gateway/doctor"
	"unproxy/gateway/engine"
)

// inUseError is the error of a listener whose address is in use. Its hint names the
// user of the address.
type inUseError struct {
	error
	hint string
}

// Unwrap returns the error.
func (e *inUseError) Unwrap() error { return e.error }

// Hint says what uses the address, and what to do.
func (e *inUseError) Hint() string { return e.hint }

// explainInUse adds a hint to EADDRINUSE errors: the program that listens on the
// address, or the connection that has the port. It returns other errors, and errors
// without a known cause, unchanged.
func explainInUse(h doctor.Host, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	at, udp := netip.AddrPort{}, false
	var listener *engine.ListenError
	var endpoint *admin.ListenError
	switch {
	case errors.As(err, &listener):
		at, udp = listener.Address, listener.Datagrams
	case errors.As(err, &endpoint):
		at = endpoint.Address.TCP
	}
	if !at.IsValid() {
		return err
	}
	holder := h.Holder(at, udp)
	if holder.Text == "" {
		return err
	}
	hint := []string{"the address is in use: " + holder.Text}
	for _, line := range holder.Hint {
		hint = append(hint, strings.TrimPrefix(line, "# and "))
	}
	return &inUseError{err, strings.Join(hint, "; ")}
}

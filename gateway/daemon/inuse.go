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

// inUseError is the error of a listener whose address is in use, with what has it.
type inUseError struct {
	error
	hint string
}

// Unwrap returns the error.
func (e *inUseError) Unwrap() error { return e.error }

// Hint returns what has the address, and what to do.
func (e *inUseError) Hint() string { return e.hint }

// explainInUse adds to the error of a listener whose address is in use what has it: a
// program that listens, or a connection that the kernel gave the port. It returns
// other errors, and those about which nothing is found, as they are.
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

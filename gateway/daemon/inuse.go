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
// program or the connection that uses it.
type inUseError struct {
	error
	hint string
}

// Unwrap returns the error of the listener.
func (e *inUseError) Unwrap() error { return e.error }

// Hint returns what uses the address, and what to do.
func (e *inUseError) Hint() string { return e.hint }

// explainInUse adds a hint to the error of a listener whose address is in use: the
// program that listens there, or the connection to which the kernel gave the port. It
// returns err unchanged if it has another cause, or if nothing is found.
func explainInUse(h doctor.Host, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	var at netip.AddrPort
	udp, path := false, ""
	var listener *engine.ListenError
	var endpoint *admin.ListenError
	switch {
	case errors.As(err, &listener):
		at, udp, path = listener.Address, listener.Datagrams, listener.Path
	case errors.As(err, &endpoint):
		at, path = endpoint.Address.TCP, endpoint.Address.Path
	}
	var holder doctor.Holder
	switch {
	case path != "":
		holder = h.HolderOfPath(path)
	case at.IsValid():
		holder = h.Holder(at, udp)
	}
	if holder.Text == "" {
		return err
	}
	hint := []string{"the address is in use: " + holder.Text}
	for _, line := range holder.Hint {
		hint = append(hint, strings.TrimPrefix(line, "# and "))
	}
	return &inUseError{err, strings.Join(hint, "; ")}
}

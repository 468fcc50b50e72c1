package routing

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Error is the failure of an operation on routes, rules or the packet filter.
type Error struct {
	// Command is the equivalent ip(8) or nft(8) command.
	Command string
	// Err is the error of netlink or of running nft.
	Err error
}

// Error returns the command and the error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Command, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns how to fix it, on one line, or "".
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, exec.ErrNotFound):
		return "the packet filter's part of the plan needs nft: apt install nftables, " +
			"or --recipe rules if only the gateway connects to the backends"
	case errors.Is(e.Err, syscall.EPERM):
		return "routes and rules need CAP_NET_ADMIN: run this command as root; the gateway itself does not need it"
	}
	return ""
}

// failed returns an [*Error], or nil if err is nil.
func failed(command string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Command: command, Err: err}
}

package routing

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Error is a command that could not be carried out.
type Error struct {
	// Command is what it stands for, in the words of ip(8) or nft(8).
	Command string
	Err     error
}

// Error returns what was attempted and what went wrong.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Command, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Hint says in a sentence how to mend it, or nothing.
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, exec.ErrNotFound):
		return "the packet filter's part of the plan takes nft: apt install nftables, or --recipe rules where nobody else talks to the backends"
	case errors.Is(e.Err, syscall.EPERM):
		return "routes and rules take CAP_NET_ADMIN: run this command as root; the gateway itself does without"
	}
	return ""
}

func failed(command string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Command: command, Err: err}
}

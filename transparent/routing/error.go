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

// ErrNoNFT is matched by the errors of a host on which the program nft is not
// installed.
var ErrNoNFT = exec.ErrNotFound

// errOtherFirst is the error for a rule that cannot be removed alone.
var errOtherFirst = errors.New("the kernel would delete a rule of another program, which has this preference, too, " +
	"and differs only in what this command cannot name")

// errModule is the error of nft if the kernel does not know what a table uses.
var errModule = errors.New("the kernel has no support for it")

// Error returns the command and the error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Command, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns how to fix it, on one line, or "".
func (e *Error) Hint() string {
	switch {
	case errors.Is(e.Err, errOtherFirst):
		return "see ip -d rule; delete both rules by ip rule del pref, " +
			"and add the other one again with another preference"
	case errors.Is(e.Err, errModule):
		return "the kernel needs nft_socket, nft_tproxy, nft_ct and nft_fib_inet: modprobe each, or --recipe rules"
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

package attach

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Error is a failure whose remedy is known.
type Error struct {
	text, hint string
	cause      error
}

// Error returns what failed.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.text
	}
	return e.text + ": " + e.cause.Error()
}

// Hint returns what to do about it.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// privilegesHint is the remedy for an EPERM of bpf(2).
const privilegesHint = "run it as root of the host: BPF programs take CAP_SYS_ADMIN and CAP_NET_ADMIN, " +
	"which root in a user namespace, as in a rootless container, does not have"

// mayUse asks the kernel for the number of any BPF program. That takes the privileges of
// everything else here, and its errors are unambiguous, unlike those of the other calls.
func mayUse() error {
	_, err := ebpf.ProgramGetNextID(0)
	switch {
	case errors.Is(err, unix.EPERM):
		return &Error{"use BPF programs", privilegesHint, err}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return explain("use BPF programs", err)
	}
	return nil
}

// explain adds the remedy to an error of bpf(2). doing says what was attempted.
func explain(doing string, err error) error {
	var refused *ebpf.VerifierError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && !errors.As(err, &refused):
		return &Error{doing, privilegesHint, err}
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return &Error{doing, "the attached programs are of a version with other maps: unproxy toa detach, then attach; " +
			"live connections then show the gateway", err}
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.As(err, &refused):
		return &Error{doing, "Linux 5.10 or later is needed, with CONFIG_CGROUP_BPF; this is Linux " + Kernel(), shorten(err)}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// shorten keeps of a verifier's log what the error itself says.
func shorten(err error) error {
	if refused, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		return errors.New(strings.TrimSpace(fmt.Sprintf("%-1v", refused)))
	}
	return err
}

// Kernel returns the version of the running kernel.
func Kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "of an unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}

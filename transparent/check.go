package transparent

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OptionError reports a socket option that transparent connections need and the
// kernel rejects.
type OptionError struct {
	// Option is the name of the option, such as "IP_TRANSPARENT".
	Option string
	// Err is the error of setsockopt(2). It matches the errno and, if a
	// capability is missing, fs.ErrPermission.
	Err error
}

// Error names the option and, for EPERM, the missing capability.
func (e *OptionError) Error() string {
	if errors.Is(e.Err, syscall.EPERM) {
		return fmt.Sprintf("set %s: CAP_NET_RAW is missing: %v", e.Option, e.Err)
	}
	return fmt.Sprintf("set %s: %v", e.Option, e.Err)
}

// Unwrap returns Err.
func (e *OptionError) Unwrap() error { return e.Err }

// Hint returns how to fix it, on one line.
func (e *OptionError) Hint() string {
	if !errors.Is(e.Err, syscall.EPERM) {
		return "this kernel, or the sandbox that emulates it, does not support " + e.Option +
			": transparent mode cannot work here"
	}
	hint := "grant CAP_NET_RAW: AmbientCapabilities=CAP_NET_RAW in a systemd unit, --cap-add NET_RAW for a container, " +
		"or setcap cap_net_raw+ep on the program, which has no effect under no_new_privs"
	if e.Option == "SO_MARK" {
		hint += "; kernels before 5.17 need CAP_NET_ADMIN for marks"
	}
	return hint
}

// Check tests whether this process may make transparent connections. It sets
// IP_TRANSPARENT and IPV6_TRANSPARENT, and SO_MARK if mark is true, on temporary
// sockets. It skips an address family that the host does not support.
//
// If the kernel rejects an option, the error is an [*OptionError]. The kernel
// checks the capability in the user namespace that owns the network namespace
// (sk_ns_capable), so it can reject a process whose capability sets contain it.
func Check(mark bool) error { return check(System{}, true, mark) }

// CheckMark is [Check] for SO_MARK alone.
func CheckMark() error { return check(System{}, false, true) }

func check(k Sockets, foreign, mark bool) error {
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if foreign {
			err = checkTransparent(k, fd, domain == unix.AF_INET)
		}
		if mark && err == nil {
			err = optionError("SO_MARK", k.SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, 1))
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

func checkTransparent(k Sockets, fd int, is4 bool) error {
	option := "IPV6_TRANSPARENT"
	if is4 {
		option = "IP_TRANSPARENT"
	}
	return optionError(option, Enable(k, fd, is4))
}

func optionError(option string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return &OptionError{Option: option, Err: os.NewSyscallError("setsockopt", errno)}
}

package transparent

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OptionError is a socket option that transparent connections need and that
// cannot be set.
type OptionError struct {
	// Option is its name, "IP_TRANSPARENT".
	Option string
	// Err is what the system call said; errors.Is finds the errno and, for a
	// missing capability, fs.ErrPermission.
	Err error
}

// Error names the option, and the capability where that is what is missing.
func (e *OptionError) Error() string {
	if errors.Is(e.Err, syscall.EPERM) {
		return fmt.Sprintf("set %s: CAP_NET_RAW is missing: %v", e.Option, e.Err)
	}
	return fmt.Sprintf("set %s: %v", e.Option, e.Err)
}

// Unwrap returns Err.
func (e *OptionError) Unwrap() error { return e.Err }

// Hint says in a sentence how to mend it.
func (e *OptionError) Hint() string {
	if !errors.Is(e.Err, syscall.EPERM) {
		return "this kernel, or the sandbox that stands for it, does not know " + e.Option + ": transparent mode cannot work here"
	}
	hint := "give it CAP_NET_RAW: AmbientCapabilities=CAP_NET_RAW in a systemd unit, --cap-add NET_RAW for a container, " +
		"else setcap cap_net_raw+ep on the program, which is void under no_new_privs"
	if e.Option == "SO_MARK" {
		hint += "; kernels before 5.17 want CAP_NET_ADMIN for marks"
	}
	return hint
}

// Check tells whether this process may make transparent connections, by trying
// the options on sockets that are closed again at once: IP_TRANSPARENT and
// IPV6_TRANSPARENT, and SO_MARK if mark is set. A host without one of the two
// families passes for that family.
//
// What the kernel refuses is an [*OptionError], which comes with a hint. The
// capability counts in the user namespace that owns the network namespace
// (sk_ns_capable), so a process may have it and yet be refused.
func Check(mark bool) error { return check(System{}, true, mark) }

// CheckMark is [Check] for a process that sets SO_MARK on plain connections
// only.
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

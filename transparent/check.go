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
// Errors that wrap an [*OptionError] come with a hint. The capability counts in
// the user namespace that owns the network namespace (sk_ns_capable), so a
// process may have it and yet be refused.
func Check(mark bool) error {
	return check(System{}, mark)
}

func check(k Sockets, mark bool) error {
	families := []struct {
		domain int
		is4    bool
		option string
	}{
		{unix.AF_INET, true, "IP_TRANSPARENT"},
		{unix.AF_INET6, false, "IPV6_TRANSPARENT"},
	}
	for _, f := range families {
		fd, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		err = checkSocket(k, fd, f.is4, mark, f.option)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

func checkSocket(k Sockets, fd int, is4, mark bool, option string) error {
	if errno := setTransparent(k, fd, is4); errno != 0 {
		return &OptionError{Option: option, Err: os.NewSyscallError("setsockopt", errno)}
	}
	if !mark {
		return nil
	}
	if errno := k.SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, 1); errno != 0 {
		return &OptionError{Option: "SO_MARK", Err: os.NewSyscallError("setsockopt", errno)}
	}
	return nil
}

// CheckMark tells whether this process may set SO_MARK, where nothing needs to
// be transparent; its errors are those of [Check].
func CheckMark() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if errno := (System{}).SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, 1); errno != 0 {
		return &OptionError{Option: "SO_MARK", Err: os.NewSyscallError("setsockopt", errno)}
	}
	return nil
}

package supervise

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Socket is an inherited socket.
type Socket struct {
	// FD is its descriptor, non-blocking and close-on-exec. The receiver of the
	// Socket owns it.
	FD int
	// Name is "systemd:" and the FileDescriptorName, or the name that the
	// previous process gave the socket.
	Name string
	// Held says that systemd also keeps the socket open. Systemd passed it to
	// this process or to a previous one.
	Held bool
	// Addr is the address that it is bound to, Path that of a unix socket; "@"
	// begins an abstract name. Both are zero if there is a Fault.
	Addr netip.AddrPort
	Path string
	// Fault says why the socket cannot accept streams. It completes the sentence
	// "the socket NAME ...". Hint says how to fix it. Both are "" for a usable socket.
	Fault, Hint string
}

// Inheritance is what the process inherited.
type Inheritance struct {
	Sockets []Socket
	// Parent is the process that this one takes over from, or nil.
	Parent *Parent
}

// The variables of sd_listen_fds(3), and a private one for upgrades: the parent cannot
// set LISTEN_PID, because it does not know the child's process id in advance.
const (
	listenPID   = "LISTEN_PID"
	listenFDs   = "LISTEN_FDS"
	listenNames = "LISTEN_FDNAMES"
	listenPIDFD = "LISTEN_PIDFDID" // not needed in addition to LISTEN_PID
	upgradeMark = "_UNPROXY_UPGRADE"
)

// systemdPrefix is the prefix of the names of systemd's sockets, as in --forward.
const systemdPrefix = "systemd:"

const (
	firstFD    = 3    // SD_LISTEN_FDS_START
	mostFDs    = 4096 // more than any service has; a wrong number must not take over unrelated descriptors
	parentFD   = firstFD
	childFirst = firstFD + 1
)

// Inherit returns what the process was started with and removes the variables that
// describe it from the environment. Call it once, before any file is opened.
func Inherit() (Inheritance, error) {
	found, upgrade, err := parse(os.Getenv, os.Getpid())
	for _, name := range []string{listenPID, listenFDs, listenNames, listenPIDFD, upgradeMark} {
		os.Unsetenv(name)
	}
	if err != nil {
		return Inheritance{}, err
	}
	var in Inheritance
	if upgrade {
		unix.CloseOnExec(parentFD)
		in.Parent = &Parent{channel: os.NewFile(parentFD, "parent")}
		if group, err := unix.Getpgid(os.Getppid()); err == nil {
			in.Parent.group = group
		}
	}
	for _, s := range found {
		if err := s.inspect(); err != nil {
			return Inheritance{}, err
		}
		in.Sockets = append(in.Sockets, s)
	}
	return in, nil
}

// parse reads the variables. upgrade reports whether this process takes over from its
// parent.
func parse(getenv func(string) string, pid int) (found []Socket, upgrade bool, err error) {
	if text := getenv(upgradeMark); text != "" {
		found, err := readSocketList(text)
		return found, err == nil, err
	}
	if getenv(listenPID) != strconv.Itoa(pid) {
		return nil, false, nil // no sockets, or those of another process
	}
	n, err := strconv.Atoi(getenv(listenFDs))
	if err != nil || n < 0 || n > mostFDs {
		return nil, false, fmt.Errorf("%s %.40q is not a number of sockets", listenFDs, getenv(listenFDs))
	}
	names := strings.Split(getenv(listenNames), ":")
	if getenv(listenNames) == "" {
		names = make([]string, n)
	}
	if len(names) != n {
		return nil, false, fmt.Errorf("%s %.100q has %d names, but %s is %d",
			listenNames, getenv(listenNames), len(names), listenFDs, n)
	}
	for i, name := range names {
		if name == "" {
			name = "unknown" // systemd's default
		}
		found = append(found, Socket{FD: firstFD + i, Name: systemdPrefix + name, Held: true})
	}
	return found, false, nil
}

// inspect makes the descriptor non-blocking and close-on-exec, and sets the other
// fields. It fails if the descriptor is not open.
func (s *Socket) inspect() error {
	if _, err := unix.FcntlInt(uintptr(s.FD), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return fmt.Errorf("take over descriptor %d, %q: %w", s.FD, s.Name, os.NewSyscallError("fcntl", err))
	}
	if err := unix.SetNonblock(s.FD, true); err != nil {
		return fmt.Errorf("take over descriptor %d, %q: %w", s.FD, s.Name, os.NewSyscallError("fcntl", err))
	}
	if err := s.describe(); err != nil {
		return fmt.Errorf("inspect descriptor %d, %q: %w", s.FD, s.Name, err)
	}
	return nil
}

// describe sets the address of the socket, or its fault and hint.
func (s *Socket) describe() error {
	kind, err := unix.GetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		s.Fault, s.Hint = "is not a socket", "ListenStream= in the .socket unit"
		return nil
	}
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if kind != unix.SOCK_STREAM {
		s.Fault, s.Hint = "is not a stream socket", "ListenStream= in the .socket unit"
		return nil
	}
	accepting, err := unix.GetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if accepting == 0 {
		s.Fault, s.Hint = "is a connection and not a listener", "Accept=no in the .socket unit"
		return nil
	}
	return s.bound()
}

// bound sets the address of a listening stream socket.
func (s *Socket) bound() error {
	protocol, err := unix.GetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	at, err := unix.Getsockname(s.FD)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return os.NewSyscallError("getsockname", err)
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		s.Addr = netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
	case *unix.SockaddrInet6:
		s.Addr = netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port))
	case *unix.SockaddrUnix:
		s.Path = at.Name
		return nil
	default:
		s.Fault = "is neither an IP nor a unix socket"
		s.Hint = "ListenStream=PORT or ListenStream=PATH in the .socket unit"
		return nil
	}
	if protocol != unix.IPPROTO_TCP {
		s.Addr = netip.AddrPort{}
		s.Fault, s.Hint = "is not plain TCP", "remove SocketProtocol= from the .socket unit"
	}
	return nil
}

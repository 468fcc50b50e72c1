package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Socket is a socket that was open when the process started.
type Socket struct {
	// FD is its descriptor, non-blocking and close-on-exec. Whoever takes the
	// Socket owns it.
	FD int
	// Name is what it was handed over as: "systemd:" and its
	// FileDescriptorName, or the name that the process before gave it.
	Name string
	// Held says that systemd keeps it open, too. The process before may have
	// got it from there.
	Held bool
	// Addr is where it is bound, Path the same for a unix socket, after "@"
	// in the abstract name space. Both are zero where there is a Fault.
	Addr netip.AddrPort
	Path string
	// Fault completes "the socket NAME ..." where it is none that streams can
	// be accepted from, and Mend says what to do about it.
	Fault, Mend string
}

// Inheritance is what the process was started with.
type Inheritance struct {
	Sockets []Socket
	// Parent is the process that this one takes over from, or nil.
	Parent *Parent
}

// The variables of sd_listen_fds(3), and the one of our own that stands for
// them in a process which takes over: a parent cannot know its child's id
// beforehand, so it cannot set LISTEN_PID.
const (
	listenPID   = "LISTEN_PID"
	listenFDs   = "LISTEN_FDS"
	listenNames = "LISTEN_FDNAMES"
	listenPIDFD = "LISTEN_PIDFDID" // beside LISTEN_PID, which suffices
	upgradeMark = "_UNPROXY_UPGRADE"
)

// systemdPrefix begins the names of systemd's sockets, as --forward has them.
const systemdPrefix = "systemd:"

const (
	firstFD    = 3    // SD_LISTEN_FDS_START
	mostFDs    = 4096 // no service has more; a wrong number must not close them all
	parentFD   = firstFD
	childFirst = firstFD + 1
)

// handed is one entry of the variable upgradeMark: a socket that the process
// before hands over. The first has the descriptor childFirst, and so on.
type handed struct {
	Name string
	Held bool
}

// Inherit takes what the process was started with. It is to be called once,
// before anything is opened, and takes the variables that speak of it out of
// the environment.
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
	}
	for _, s := range found {
		if err := s.inspect(); err != nil {
			return Inheritance{}, err
		}
		in.Sockets = append(in.Sockets, s)
	}
	return in, nil
}

// parse reads the variables. It tells whether there is a process before this one.
func parse(getenv func(string) string, pid int) (found []Socket, upgrade bool, err error) {
	if text := getenv(upgradeMark); text != "" {
		var all []handed
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return nil, false, fmt.Errorf("read %s: %w", upgradeMark, err)
		}
		for i, h := range all {
			found = append(found, Socket{FD: childFirst + i, Name: h.Name, Held: h.Held})
		}
		return found, true, nil
	}
	if getenv(listenPID) != strconv.Itoa(pid) {
		return nil, false, nil // none, or meant for another process
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
		return nil, false, fmt.Errorf("%s %.100q names %d sockets of %d", listenNames, getenv(listenNames), len(names), n)
	}
	for i, name := range names {
		if name == "" {
			name = "unknown" // what systemd calls it
		}
		found = append(found, Socket{FD: firstFD + i, Name: systemdPrefix + name, Held: true})
	}
	return found, false, nil
}

// inspect finds out what the descriptor is and makes it ours. It fails where
// there is no such descriptor.
func (s *Socket) inspect() error {
	if _, err := unix.FcntlInt(uintptr(s.FD), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return fmt.Errorf("take over descriptor %d, %q: %w", s.FD, s.Name, os.NewSyscallError("fcntl", err))
	}
	if err := unix.SetNonblock(s.FD, true); err != nil {
		return fmt.Errorf("take over descriptor %d, %q: %w", s.FD, s.Name, os.NewSyscallError("fcntl", err))
	}
	if err := s.describe(); err != nil {
		return fmt.Errorf("look at descriptor %d, %q: %w", s.FD, s.Name, err)
	}
	return nil
}

// describe fills in where the socket listens, or its fault.
func (s *Socket) describe() error {
	kind, err := unix.GetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		s.Fault, s.Mend = "is no socket", "ListenStream= in the .socket unit"
		return nil
	}
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if kind != unix.SOCK_STREAM {
		s.Fault, s.Mend = "is not a stream socket", "ListenStream= in the .socket unit"
		return nil
	}
	accepting, err := unix.GetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if accepting == 0 {
		s.Fault, s.Mend = "is a connection and not a listener", "Accept=no in the .socket unit"
		return nil
	}
	return s.bound()
}

// bound fills in the address of a listening stream socket.
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
		s.Fault, s.Mend = "is neither of IP nor a unix socket", "ListenStream=PORT or ListenStream=PATH in the .socket unit"
		return nil
	}
	if protocol != unix.IPPROTO_TCP {
		s.Addr = netip.AddrPort{}
		s.Fault, s.Mend = "is not plain TCP", "leave SocketProtocol= out of the .socket unit"
	}
	return nil
}

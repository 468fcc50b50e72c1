package transparent

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rejecter is a kernel that rejects one option.
type rejecter struct {
	level, name int
	errno       syscall.Errno
}

func (r rejecter) SetOption(_, level, name, _ int) syscall.Errno {
	if level == r.level && name == r.name {
		return r.errno
	}
	return 0
}

func (rejecter) Bind(int, netip.AddrPort) syscall.Errno { return 0 }

// A check closes its sockets: the next one gets their descriptors.
func TestCheckCloses(t *testing.T) {
	free := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		return fd
	}
	before := free()
	for range 20 {
		check(rejecter{unix.SOL_SOCKET, unix.SO_MARK, syscall.EPERM}, true, true)
		check(rejecter{}, true, true)
	}
	if after := free(); after != before {
		t.Errorf("the next descriptor is %d, it was %d", after, before)
	}
}

// Bind ends with the first call that fails, and returns its error.
func TestBindFails(t *testing.T) {
	for _, row := range []struct {
		kernel rejecter
		source string
	}{
		{rejecter{unix.SOL_SOCKET, unix.SO_REUSEADDR, syscall.ENOMEM}, "192.0.2.1:5"},
		{rejecter{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, syscall.ENOPROTOOPT}, "192.0.2.1:0"},
		{rejecter{unix.IPPROTO_IP, unix.IP_TRANSPARENT, syscall.EPERM}, "192.0.2.1:5"},
		{rejecter{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, syscall.EPERM}, "[2001:db8::1]:5"},
	} {
		if errno := Bind(row.kernel, 3, netip.MustParseAddrPort(row.source)); errno != row.kernel.errno {
			t.Errorf("%+v, from %s: %v", row.kernel, row.source, errno)
		}
	}
	if errno := SharePort(rejecter{unix.SOL_SOCKET, unix.SO_REUSEPORT, syscall.ENOPROTOOPT}, 3); errno != syscall.ENOPROTOOPT {
		t.Errorf("SharePort: %v", errno)
	}
	if errno := errnoOf(errors.New("no number")); errno != syscall.EINVAL {
		t.Errorf("an error that is no number is %v", errno)
	}
}

// Another port helps against ports that are taken or reserved, and against nothing else.
func TestRetry(t *testing.T) {
	for errno, want := range map[syscall.Errno][2]bool{
		syscall.EADDRINUSE: {true, true}, syscall.EACCES: {true, false}, syscall.EADDRNOTAVAIL: {false, true},
		syscall.EPERM: {}, syscall.ECONNREFUSED: {}, 0: {},
	} {
		if got := [2]bool{RetryBind(errno), RetryConnect(errno)}; got != want {
			t.Errorf("%v: another port after bind and connect: %v, want %v", errno, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		kernel        rejecter
		foreign, mark bool
		error         string // "": none
		hint          string
	}{
		{rejecter{}, true, true, "", ""},
		{rejecter{unix.IPPROTO_IP, unix.IP_TRANSPARENT, syscall.EPERM}, true, false,
			"set IP_TRANSPARENT: CAP_NET_RAW is missing: setsockopt: operation not permitted",
			"AmbientCapabilities=CAP_NET_RAW"},
		{rejecter{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, syscall.EPERM}, true, false,
			"set IPV6_TRANSPARENT: CAP_NET_RAW is missing: setsockopt: operation not permitted", "--cap-add NET_RAW"},
		{rejecter{unix.IPPROTO_IP, unix.IP_TRANSPARENT, syscall.ENOPROTOOPT}, true, false,
			"set IP_TRANSPARENT: setsockopt: protocol not available", "does not support IP_TRANSPARENT"},
		{rejecter{unix.SOL_SOCKET, unix.SO_MARK, syscall.EPERM}, true, true,
			"set SO_MARK: CAP_NET_RAW is missing: setsockopt: operation not permitted", "5.17"},
		{rejecter{unix.SOL_SOCKET, unix.SO_MARK, syscall.EPERM}, false, true,
			"set SO_MARK: CAP_NET_RAW is missing: setsockopt: operation not permitted", "5.17"},
		{rejecter{unix.SOL_SOCKET, unix.SO_MARK, syscall.EPERM}, true, false, "", ""},
		{rejecter{unix.IPPROTO_IP, unix.IP_TRANSPARENT, syscall.EPERM}, false, true, "", ""},
	} {
		err := check(tt.kernel, tt.foreign, tt.mark)
		if tt.error == "" {
			if err != nil {
				t.Errorf("check with %+v: %v", tt.kernel, err)
			}
			continue
		}
		if err == nil || err.Error() != tt.error || !errors.Is(err, tt.kernel.errno) {
			t.Errorf("check with %+v: %v, want %s", tt.kernel, err, tt.error)
			continue
		}
		option, ok := errors.AsType[*OptionError](err)
		if !ok || !strings.Contains(option.Hint(), tt.hint) || strings.Contains(option.Hint(), "\n") {
			t.Errorf("hint of %v: %q, want one line with %q", err, option.Hint(), tt.hint)
		}
	}
}

package toa_test

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/allocations"
	"unproxy/transparent/toa"
)

// The layout of struct set in the programs, at the offsets of the package's documentation.
func TestValueLayout(t *testing.T) {
	v := toa.Record{Client: client4, Format: toa.Legacy}.Value()
	if binary.NativeEndian.Uint16(v[0:]) != 2 || [2]byte(v[2:4]) != [2]byte{0x12, 0x67} ||
		[4]byte(v[4:8]) != [4]byte{203, 0, 113, 9} || [12]byte(v[8:20]) != [12]byte{} ||
		binary.NativeEndian.Uint32(v[20:]) != 2 {
		t.Errorf("IPv4: % x", v)
	}
	v = toa.Record{Client: client6}.Value()
	if binary.NativeEndian.Uint16(v[0:]) != 10 || [16]byte(v[4:20]) != client6.Addr().As16() ||
		binary.NativeEndian.Uint32(v[20:]) != 0 {
		t.Errorf("IPv6: % x", v)
	}
}

// A value that is a record comes back as it was; others are refused.
func FuzzValue(f *testing.F) {
	for _, r := range []toa.Record{{Client: client4}, {Client: client6, Format: toa.Legacy}} {
		v := r.Value()
		f.Add(v[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v toa.Value
		copy(v[:], b)
		r, ok := v.Record()
		family := binary.NativeEndian.Uint16(v[0:])
		if want := (family == unix.AF_INET || family == unix.AF_INET6) && binary.NativeEndian.Uint32(v[20:]) <= 2; ok != want {
			t.Fatalf("% x: %v, want %v", v, ok, want)
		}
		if !ok || r.Client.Addr().Is4In6() {
			return
		}
		if again, ok := r.Value().Record(); !ok || again != r {
			t.Fatalf("%+v came back as %+v, %v", r, again, ok)
		}
	})
}

// answers are programs that answer with a reply or an error.
type answers struct {
	set   []toa.Value
	reply toa.Reply
	errno syscall.Errno
}

func (a *answers) SetClient(_ int, v toa.Value) syscall.Errno {
	a.set = append(a.set, v)
	return a.errno
}

func (a *answers) ClientState(int) (toa.Reply, syscall.Errno) { return a.reply, a.errno }

func TestProgress(t *testing.T) {
	a := &answers{reply: toa.Reply{1, 0, 0, 0, 0, 0, 0, 0}}
	binary.NativeEndian.PutUint32(a.reply[4:], 3)
	if s, errno := toa.Progress(a, 3); errno != 0 || s != (toa.State{Promised: true, Written: 3}) {
		t.Errorf("%+v, %v", s, errno)
	}
	a.reply[1] = 1
	if s, _ := toa.Progress(a, 3); !s.Acknowledged {
		t.Errorf("%+v", s)
	}
	a.errno = unix.ENOPROTOOPT
	if s, errno := toa.Progress(a, 3); errno != unix.ENOPROTOOPT || s != (toa.State{}) {
		t.Errorf("%+v, %v", s, errno)
	}
}

// A client that no option can carry is not given to the programs.
func TestSetRefuses(t *testing.T) {
	a := &answers{}
	for _, client := range []netip.AddrPort{{}, netip.MustParseAddrPort("[fe80::1%eth0]:1")} {
		if errno := toa.Set(a, 3, toa.Record{Client: client}); errno != unix.EINVAL {
			t.Errorf("%v: %v", client, errno)
		}
	}
	if len(a.set) != 0 {
		t.Errorf("set %v", a.set)
	}
	if errno := toa.Set(a, 3, toa.Record{Client: client6}); errno != 0 || len(a.set) != 1 {
		t.Errorf("%v: %v, %d values set", client6, errno, len(a.set))
	}
}

// Without programs the kernel says so, for sockets of both families: ip_getsockopt has another error than
// ip_setsockopt. Nothing is allocated.
func TestWithoutPrograms(t *testing.T) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skipf("socket of family %d: %v", family, err)
		}
		defer unix.Close(fd)
		if n := allocations.PerRun(100, func() {
			set := toa.Set(toa.System{}, fd, toa.Record{Client: client4})
			_, got := toa.Progress(toa.System{}, fd)
			if set != unix.ENOPROTOOPT || got == 0 {
				t.Fatalf("family %d: %v, %v, want ENOPROTOOPT", family, set, got)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

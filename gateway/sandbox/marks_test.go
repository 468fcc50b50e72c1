package sandbox

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// CAP_NET_RAW permits marks since Linux 5.17, CAP_NET_ADMIN always. The thread that asks has
// no other capability, and the process keeps all.
func TestPermitsMarks(t *testing.T) {
	if os.Geteuid() != 0 || !Has(NetAdmin) {
		t.Skip("needs root with CAP_NET_ADMIN")
	}
	for c, want := range map[Capability]bool{NetRaw: atLeast(t, 5, 17), NetAdmin: true, NetBindService: false} {
		if got := PermitsMarks(c); got != want {
			t.Errorf("%v permits marks: %v, want %v", c, got, want)
		}
	}
	for _, c := range []Capability{NetRaw, NetAdmin, NetBindService} {
		if !Has(c) {
			t.Errorf("%v is gone", c)
		}
	}
}

// atLeast reports whether the kernel has this version.
func atLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var is, minorIs int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &is, &minorIs); err != nil {
		t.Fatal(err)
	}
	return is > major || is == major && minorIs >= minor
}

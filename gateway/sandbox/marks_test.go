package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// CAP_NET_RAW permits marks since Linux 5.17, CAP_NET_ADMIN always. Afterwards all threads have the same
// capabilities as before.
func TestPermitsMarks(t *testing.T) {
	if os.Geteuid() != 0 || !Has(NetAdmin) {
		t.Skip("needs root with CAP_NET_ADMIN")
	}
	for c, want := range map[Capability]bool{NetRaw: atLeast(t, 5, 17), NetAdmin: true, NetBindService: false} {
		if got := PermitsMarks(c); got != want {
			t.Errorf("%v permits marks: %v, want %v", c, got, want)
		}
	}
	var first string
	for thread, now := range capabilitiesOfThreads(t) {
		if first == "" {
			first = now
		}
		if now != first || now == "0000000000000000" {
			t.Errorf("thread %s has the effective capabilities %s, another one %s", thread, now, first)
		}
	}
	for _, c := range []Capability{NetRaw, NetAdmin, NetBindService} {
		if !Has(c) {
			t.Errorf("%v is gone", c)
		}
	}
}

// capabilitiesOfThreads returns the effective set of each thread of this process, as /proc has it.
func capabilitiesOfThreads(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads in /proc: %v", err)
	}
	sets := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(text), "CapEff:")
		line, _, _ := strings.Cut(after, "\n")
		sets[filepath.Base(filepath.Dir(file))] = strings.TrimSpace(line)
	}
	return sets
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

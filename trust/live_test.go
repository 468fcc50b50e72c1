package trust

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"unproxy/integration_test/allocations"
)

func TestLive(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	var l Live
	if l.Contains(addr) || l.Set().Len() != 0 {
		t.Error("the zero value trusts an address")
	}
	set := NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}})
	l.Replace(set)
	if !l.Contains(addr) || l.Set() != set {
		t.Error("Replace has no effect")
	}
	if !NewLive(set).Contains(addr) {
		t.Error("NewLive ignores its set")
	}
	if !l.Admit(addr, 3) || set.Hits()[0].Hits != 1 {
		t.Error("Admit does not count in the current set")
	}
	l.Replace(nil)
	if l.Contains(addr) || l.Admit(addr, 0) {
		t.Error("a nil set trusts an address")
	}
}

// Concurrent queries see one set or the other. Run it with -race.
func TestLiveReplaceIsConcurrent(t *testing.T) {
	both := netip.MustParseAddr("10.0.0.1")
	sets := []*Set{
		NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}),
		NewSet([]Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/16")}}),
	}
	l := NewLive(sets[0])
	var queries sync.WaitGroup
	for range 4 {
		queries.Go(func() {
			for range 10_000 {
				if !l.Contains(both) {
					t.Error("an address in both sets is not trusted")
					return
				}
			}
		})
	}
	for i := range 1000 {
		l.Replace(sets[i%2])
	}
	queries.Wait()
}

func TestLiveDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	l, addr := NewLive(NewSet(randomRules(r, 10_000))), randomAddr(r)
	if n := allocations.PerRun(1000, func() { l.Contains(addr); l.Admit(addr, 0) }); n != 0 {
		t.Errorf("%v allocations per lookup, want none", n)
	}
}

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "10.0.0.0/8\n")
	write("b", "")
	files := []string{path("a"), path("b")}
	first := Fingerprint(files)
	same := func(what string, want bool) {
		t.Helper()
		if got := Fingerprint(files) == first; got != want {
			t.Errorf("%s: fingerprint unchanged: %v, want %v", what, got, want)
		}
	}
	same("unchanged", true)
	write("a", "10.0.0.0/8\n")
	same("rewritten unchanged", true)
	write("a", "")
	write("b", "10.0.0.0/8\n")
	same("content moved to the other file", false)
	write("a", "10.0.0.0/8\n")
	write("b", "")
	same("restored", true)
	if err := os.Remove(path("b")); err != nil {
		t.Fatal(err)
	}
	same("file removed", false)
	// Kubernetes updates a ConfigMap by replacing a link to a directory.
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(path(version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(version+"/list", version)
	}
	if err := os.Symlink("v1", path("current")); err != nil {
		t.Fatal(err)
	}
	files = []string{path("current/list")}
	first = Fingerprint(files)
	if err := os.Symlink("v2", path("next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path("next"), path("current")); err != nil {
		t.Fatal(err)
	}
	same("link retargeted", false)
}

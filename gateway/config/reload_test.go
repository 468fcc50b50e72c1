package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/trust"
)

// reloadable is a configuration of two forwards and three lists: a trust list with
// a rule and file "a", which both share, file "b", and health sources.
type reloadable struct {
	*testing.T
	*Lists
	dir           string
	shared, other *forward.Forward
}

func newReloadable(t *testing.T) *reloadable {
	t.Helper()
	r := &reloadable{T: t, dir: t.TempDir()}
	r.write("a", "192.0.2.1\n")
	r.write("b", "192.0.2.2\n")
	c, _, err := load([]string{"127.0.0.1:0=127.0.0.1:9", "127.0.0.1:0=127.0.0.1:9?trust-file=" + r.path("b")},
		"trust 198.51.100.0/24", "trust-file "+r.path("a"), "health-source 203.0.113.0/24")
	if err != nil {
		t.Fatal(err)
	}
	r.Lists = c.Lists
	r.now = func() time.Time { return time.Unix(1000, 0) }
	r.shared, r.other = c.Forwards[0], c.Forwards[1]
	return r
}

func (r *reloadable) path(name string) string { return filepath.Join(r.dir, name) }

func (r *reloadable) write(name, text string) {
	r.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *reloadable) trusts(f *forward.Forward, addr string, want bool) {
	r.Helper()
	if got := f.Trust.Contains(netip.MustParseAddr(addr)); got != want {
		r.Errorf("trusts %s: %v, want %v", addr, got, want)
	}
}

func TestReload(t *testing.T) {
	r := newReloadable(t)
	r.write("a", "192.0.2.10\n192.0.2.11 # new\n")
	r.write("b", "any\n")
	done, err := r.Reload()
	if err != nil {
		t.Fatal(err)
	}
	// any is a rule of each family; the flags make two more.
	if done.Lists != 3 || done.Rules != 6 || len(done.Warnings) != 1 || !strings.Contains(done.Warnings[0].Message, "trusts every host") {
		t.Errorf("%+v", done)
	}
	r.trusts(r.shared, "192.0.2.1", false)
	r.trusts(r.shared, "192.0.2.11", true)
	r.trusts(r.shared, "198.51.100.1", true)
	r.trusts(r.other, "192.0.2.1", true)
	if s := r.State(); s.Succeeded != 1 || s.Failed != 0 || s.LastError != nil || !s.LastSuccess.Equal(time.Unix(1000, 0)) {
		t.Errorf("%+v", s)
	}
}

// An invalid line in one list leaves all lists unchanged. Every problem is reported.
func TestReloadIsAllOrNothing(t *testing.T) {
	for name, broken := range map[string]string{"a broken line": "192.0.2.20\n10.0.0.1/8\n", "empty": "# no rule\n", "a port": "192.0.2.20:80\n"} {
		t.Run(name, func(t *testing.T) {
			r := newReloadable(t)
			r.write("a", "192.0.2.20\n")
			r.write("b", broken)
			_, err := r.Reload()
			if err == nil || !strings.Contains(err.Error(), r.path("b")) {
				t.Fatalf("the error is %v", err)
			}
			r.trusts(r.shared, "192.0.2.20", false)
			r.trusts(r.shared, "192.0.2.1", true)
			r.trusts(r.other, "192.0.2.2", true)
			if s := r.State(); s.Succeeded != 0 || s.Failed != 1 || s.LastError == nil || !s.LastSuccess.IsZero() {
				t.Errorf("%+v", s)
			}
			r.write("b", "192.0.2.21\n")
			if _, err := r.Reload(); err != nil {
				t.Fatal(err)
			}
			r.trusts(r.shared, "192.0.2.20", true)
			r.trusts(r.other, "192.0.2.21", true)
			if s := r.State(); s.Succeeded != 1 || s.Failed != 1 || s.LastError != nil {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Doubts about one list are reported although another one is broken.
func TestReloadWarnsBesideAnError(t *testing.T) {
	r := newReloadable(t)
	r.write("a", "any\n")
	r.write("b", "broken\n")
	done, err := r.Reload()
	if err == nil || len(done.Warnings) != 1 || !strings.Contains(done.Warnings[0].Message, "trusts every host") {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestReloadReportsAllProblems(t *testing.T) {
	r := newReloadable(t)
	r.write("a", "10.0.0.1/8\n")
	if err := os.Remove(r.path("b")); err != nil {
		t.Fatal(err)
	}
	_, err := r.Reload()
	for _, want := range []string{r.path("a") + ":1", r.path("b") + ": cannot read"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
	}
}

// Changed compares contents, and reports a change that two calls saw.
func TestChanged(t *testing.T) {
	r := newReloadable(t)
	asked := func(what string, want ...bool) {
		t.Helper()
		for i, w := range want {
			if got := r.Changed(); got != w {
				t.Errorf("%s: call %d: Changed = %v", what, i+1, got)
			}
		}
	}
	asked("nothing happened", false, false)
	r.write("a", "192.0.2.1\n")
	asked("written with the same content", false, false)
	r.write("a", "192.0.2.30\n")
	asked("changed", false, true, true)
	if _, err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	asked("reloaded", false, false)
	r.write("b", "192.0.2.")
	asked("being written", false)
	r.write("b", "192.0.2.31")
	asked("still being written", false)
	r.write("b", "192.0.2.31\n192.0.2.32\n")
	asked("written", false, true)
	r.write("b", "broken\n")
	asked("broken", false, true)
	if _, err := r.Reload(); err == nil {
		t.Fatal("an invalid list was accepted")
	}
	asked("failed to load", false, false)
	r.write("b", "192.0.2.33\n")
	asked("fixed", false, true)
	if err := os.Remove(r.path("b")); err != nil {
		t.Fatal(err)
	}
	asked("gone", false, true)
}

// Changed reports a change between the start and its first call.
func TestChangedSinceTheStart(t *testing.T) {
	r := newReloadable(t)
	r.write("a", "192.0.2.40\n")
	if r.Changed() || !r.Changed() {
		t.Error("a change before the first call is not reported")
	}
}

// The lists name their files, and say whether a rule is a template. Without lists there is nothing.
func TestFilesAndTemplates(t *testing.T) {
	r := newReloadable(t)
	if got := strings.Join(r.Files(), " "); got != r.path("a")+" "+r.path("b") {
		t.Errorf("files %q", got)
	}
	if n := CountRules(r.shared.Trust); n != 2 || len(Rules(r.shared.Trust)) != n || CountRules(nil) != 0 {
		t.Errorf("%d rules, want that of the flag and that of the file", n)
	}
	if set := trust.NewSet([]trust.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}); CountRules(set) != 1 || len(Rules(set)) != 1 {
		t.Errorf("%d rules of a set that is not reloaded", CountRules(set))
	}
	if r.HasTemplates() {
		t.Error("a template among addresses")
	}
	c, _, err := load([]string{":1=127.0.0.1:2"}, "trust 10.0.0.0/8", `trust {{ "192.0.2.1" }}`)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Lists.HasTemplates() || len(c.Lists.Files()) != 0 {
		t.Errorf("templates: %v, files %q", c.Lists.HasTemplates(), c.Lists.Files())
	}
	var none *Lists
	done, err := none.Reload()
	if none.HasTemplates() || none.Files() != nil || none.Changed() || none.State() != (ReloadState{}) || err != nil ||
		done.Lists+done.Rules+len(done.Warnings) != 0 {
		t.Errorf("no lists: %+v, %v", done, err)
	}
}

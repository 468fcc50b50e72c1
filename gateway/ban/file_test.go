package ban

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sample are bans of every form.
func sample() []Ban {
	since := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	return []Ban{
		{Prefix: prefix("203.0.113.9/32"), Since: since, Reason: `quotes " and <html> & ü`, Hits: 7},
		{Prefix: prefix("203.0.113.0/24"), Since: since, Until: since.Add(time.Hour + time.Nanosecond)},
		{Prefix: prefix("2001:db8::/64"), Since: since, Until: since.Add(time.Hour)},
	}
}

func TestTextRoundTrip(t *testing.T) {
	for _, all := range [][]Ban{nil, sample()[:1], sample()} {
		got, err := Parse(Format(all))
		if err != nil || !reflect.DeepEqual(got, all) {
			t.Errorf("%+v became %+v, %v", all, got, err)
		}
	}
	if all, err := Parse(nil); all != nil || err != nil {
		t.Errorf("an empty file: %v, %v", all, err)
	}
}

// A file that was not written by the gateway, or not completely, is refused with the line.
func TestWrongText(t *testing.T) {
	good := string(Format(sample()))
	lines := strings.SplitAfter(good, "\n")
	ban := `{"prefix":"203.0.113.9/32","since":"2026-11-22T12:00:00Z"}` + "\n"
	one := `{"unproxy_bans":1,"bans":1}` + "\n"
	for _, tt := range []struct{ text, want string }{
		{"\n", "line 1"},
		{"203.0.113.9\n", "line 1: it is not a list of bans"},
		{"{}\n", "line 1"},
		{`{"unproxy_bans":2,"bans":0}`, "version 2"},
		{`{"unproxy_bans":1,"bans":-1}`, "line 1"},
		{`{"unproxy_bans":1,"bans":65537}`, "the maximum is 65536"},
		{`{"unproxy_bans":1,"bans":0,"more":1}`, "line 1"},
		{good[:len(good)-2], "line 4: it is incomplete"},
		{strings.Join(lines[:3], ""), "it has 2 of 3 bans: it was cut short"},
		{good + ban[:len(ban)-1], "line 5"},
		{one + ban + "\n", "line 3: it is incomplete"},
		{one + "\n" + ban, "line 2: it is incomplete"},
		{one + ban[:len(ban)-1] + "{}\n", "line 2: something follows the ban"},
		{one + strings.Replace(ban, "/32", "/24", 1), "line 2: 203.0.113.9/24 is not a plain prefix: write 203.0.113.0/24"},
		{one + strings.Replace(ban, "203.0.113.9/32", "::ffff:203.0.113.9/128", 1), "write 203.0.113.9/32"},
		{one + strings.Replace(ban, "203.0.113.9/32", "0.0.0.0/0", 1), "would ban every client"},
		{one + strings.Replace(ban, "203.0.113.9/32", "localhost", 1), `line 2: "localhost" is not a prefix`},
		{one + strings.Replace(ban, "2026-11-22T12:00:00Z", "yesterday", 1), "line 2: it is not a ban"},
		{one + strings.Replace(ban, `,"since":"2026-11-22T12:00:00Z"`, "", 1), "has no beginning"},
		{one + strings.Replace(ban, "}", `,"reason":"\u001b"}`, 1), "not printable"},
		{one + strings.Replace(ban, "}", `,"unit":"sshd"}`, 1), `unknown field "unit"`},
		{strings.Replace(one, "1}", "2}", 1) + ban + ban, "line 3: 203.0.113.9/32 is banned twice"},
		{one + ban + strings.Replace(ban, ".9/", ".8/", 1), "more bans than the 1 of line 1"},
	} {
		all, err := Parse([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, %v; want an error with %q", tt.text, all, err, tt.want)
		}
	}
}

// FuzzParse: what is accepted is written again in the same meaning, and no text crashes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(""))
	f.Add(Format(nil))
	f.Add(Format(sample()))
	f.Add([]byte(`{"unproxy_bans":1,"bans":1}` + "\n" + `{"prefix":"2001:db8::/64","since":"0001-01-01T00:00:00+01:00","until":"9999-12-31T23:59:59-01:00"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Parse(text)
		if err != nil {
			return
		}
		for _, b := range all {
			if err := b.check(); err != nil {
				t.Fatalf("%+v: %v", b, err)
			}
		}
		again, err := Parse(Format(all))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(all) {
			t.Fatalf("%+v became %+v, %v", all, again, err)
		}
		if l := New(newClock().now); l.Replace(all) != nil {
			t.Fatalf("a list does not take %+v", all)
		}
	})
}

// A file outlives the process, with its mode, behind a symbolic link, and without the bans
// that have ended.
func TestFileOutlivesTheList(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "bans"), filepath.Join(dir, "link")
	c := newClock()
	l, err := Open(path, c.now)
	if err != nil || l.Len() != 0 {
		t.Fatal(err)
	}
	for _, b := range []Ban{
		{Prefix: prefix("203.0.113.9/32"), Reason: "guessing"},
		{Prefix: prefix("2001:db8::/64"), Until: c.now().Add(time.Hour)},
		{Prefix: prefix("192.0.2.1/32"), Until: c.now().Add(time.Minute)},
	} {
		if _, err := l.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if mode := modeOf(t, path); mode != 0o600 {
		t.Errorf("a new file has the mode %04o", mode)
	}
	if err := errors.Join(os.Chmod(path, 0o644), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Minute)
	next, err := Open(link, c.now)
	if err != nil || next.Len() != 2 || !next.Contains(addr("203.0.113.9")) || !next.Contains(addr("2001:db8::7")) {
		t.Fatalf("%v: %+v", err, next.All())
	}
	if removed, _, err := next.Remove(prefix("2001:db8::/64")); err != nil || !removed {
		t.Fatal(removed, err)
	}
	if mode := modeOf(t, path); mode != 0o644 {
		t.Errorf("the mode became %04o", mode)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symbolic link was replaced: %v", err)
	}
	last, err := Open(path, c.now)
	if err != nil || last.Len() != 1 || last.All()[0].Reason != "guessing" {
		t.Errorf("%v: %+v", err, last)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// If the file cannot be written, the ban is in force, the old file stays, and the next
// write that succeeds has everything.
func TestFileCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bans")
	l, err := Open(path, newClock().now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(Ban{Prefix: prefix("192.0.2.1/32")}); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	obstacle := path + ".new" // a directory that is not empty cannot be removed
	if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = l.Add(Ban{Prefix: prefix("203.0.113.9/32")})
	if _, unsaved := errors.AsType[*SaveError](err); !unsaved || !strings.Contains(err.Error(), path) {
		t.Errorf("add: %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Errorf("the file became %q", after)
	}
	if !l.Contains(addr("203.0.113.9")) || l.SaveFailures() != 1 {
		t.Errorf("banned %v, %d failures", l.Contains(addr("203.0.113.9")), l.SaveFailures())
	}
	os.RemoveAll(obstacle)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if again, err := Open(path, newClock().now); err != nil || again.Len() != 2 {
		t.Errorf("%v: %+v", err, again)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	bad, fifo := filepath.Join(dir, "bad"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(bad, []byte("203.0.113.9\n"), 0o600), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		bad:                      "line 1: it is not a list of bans that unproxy wrote",
		fifo:                     "it is not a regular file",
		dir:                      "it is not a regular file",
		filepath.Join(bad, "of"): "not a directory",
	} {
		if _, err := Open(path, time.Now); err == nil || !strings.HasPrefix(err.Error(), "read ban file "+path+": ") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}

// Changes at the same time are all in the file when they return.
func TestConcurrentChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans")
	l, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			p := prefix(fmt.Sprintf("203.0.113.%d/32", i))
			if _, err := l.Add(Ban{Prefix: p}); err != nil {
				t.Error(err)
			}
			if saved, err := Open(path, time.Now); err != nil || !saved.Contains(p.Addr()) {
				t.Errorf("%s is not in the file: %v", p, err)
			}
		})
	}
	all.Wait()
}

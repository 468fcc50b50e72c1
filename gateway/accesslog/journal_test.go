package accesslog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// numbersOf returns the device and inode numbers of a file, as in JOURNAL_STREAM.
func numbersOf(t *testing.T, f *os.File) (device, inode uint64) {
	t.Helper()
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		t.Fatal(err)
	}
	return info.Dev, info.Ino
}

// Only the journal's own socket is the journal: systemd.exec(5) tells programs to
// compare both numbers, because the variable outlives a redirected stderr.
func TestIsJournal(t *testing.T) {
	create := func(name string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	f, other := create("stderr"), create("other")
	device, inode := numbersOf(t, f)
	exact := fmt.Sprintf("%d:%d", device, inode)
	for _, tt := range []struct {
		name, stream string
		w            io.Writer
		want         bool
	}{
		{"the journal", exact, f, true},
		{"not under systemd", "", f, false},
		{"another file", exact, other, false},
		{"another inode", fmt.Sprintf("%d:%d", device, inode+1), f, false},
		{"another device", fmt.Sprintf("%d:%d", device+1, inode), f, false},
		{"no inode", fmt.Sprint(device), f, false},
		{"an empty inode", fmt.Sprintf("%d:", device), f, false},
		{"more than numbers", exact + "x", f, false},
		{"a third number", exact + ":1", f, false},
		{"no file", exact, &bytes.Buffer{}, false},
	} {
		if got := IsJournal(tt.w, tt.stream); got != tt.want {
			t.Errorf("%s, JOURNAL_STREAM=%s: %v, want %v", tt.name, tt.stream, got, tt.want)
		}
	}
	f.Close()
	if IsJournal(f, exact) {
		t.Error("a closed file is the journal")
	}
}

// Each line has the priority of its level in both formats, and none where the writer is
// not the journal.
func TestPriorities(t *testing.T) {
	for _, format := range []Format{JSON, Console} {
		for _, journal := range []bool{true, false} {
			p := &paper{}
			l, err := New(Config{Writer: p, Format: format, Level: Debug, Journal: journal})
			if err != nil {
				t.Fatal(err)
			}
			l.Logger().Error().Msg("3")
			l.Logger().Warn().Msg("4")
			l.Logger().Info().Msg("6")
			l.Logger().Debug().Msg("7")
			l.Connection(refused())
			l.Connection(finished())
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(p.text.String(), "\n"), "\n")
			want := []string{"<3>", "<4>", "<6>", "<7>", "<4>", "<6>"}
			if len(lines) != len(want) {
				t.Fatalf("%s: %d lines, want %d: %q", format, len(lines), len(want), lines)
			}
			for i, line := range lines {
				if got := strings.HasPrefix(line, want[i]); got != journal || !journal && line[0] == '<' {
					t.Errorf("%s, journal %v: %q, want the priority %s", format, journal, line, want[i])
				}
			}
		}
	}
}

// A line that was cut short does not take the priority of the next one with it.
func TestPriorityAfterATornLine(t *testing.T) {
	p := &paper{}
	s := newSink(Config{Writer: p, Format: JSON, Journal: true})
	p.breakWith(unix.ENOSPC, true)
	s.Write([]byte(`{"level":"error","message":"torn"}` + "\n"))
	p.breakWith(nil, false)
	s.unreported = 0
	s.Write([]byte(`{"level":"warn","message":"whole"}` + "\n"))
	if want := "\n<4>" + `{"level":"warn","message":"whole"}` + "\n"; !strings.HasSuffix(p.text.String(), want) {
		t.Errorf("wrote %q, want it to end with %q", p.text.String(), want)
	}
}

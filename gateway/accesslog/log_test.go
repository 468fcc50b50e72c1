package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"unproxy/gateway/record"
)

// paper is a writer that tests can read, block and break. If gate is not nil,
// every write waits for it to close.
type paper struct {
	gate chan struct{}

	mu   sync.Mutex // guards the fields below
	text bytes.Buffer
	fail error // returned by writes
	half bool  // the next failing write still takes half of the line
}

func (p *paper) Write(b []byte) (int, error) {
	if p.gate != nil {
		<-p.gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		return p.text.Write(b)
	}
	if p.half {
		p.half = false
		n, _ := p.text.Write(b[:len(b)/2])
		return n, p.fail
	}
	return 0, p.fail
}

// breakWith makes writes fail with err from now on, or succeed if err is nil.
func (p *paper) breakWith(err error, half bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail, p.half = err, half
}

// entry has the keys of a line that tests check.
type entry struct {
	Level, Message, Outcome, ID, Detail, Time string
	Count                                     uint64
}

// entries returns the lines with a message. The test fails if more than the given
// number of lines are not JSON.
func (p *paper) entries(t *testing.T, message string, broken int) []entry {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []entry
	for line := range strings.Lines(p.text.String()) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			if broken--; broken < 0 {
				t.Errorf("%q: %v", line, err)
			}
			continue
		}
		if e.Message == message {
			out = append(out, e)
		}
	}
	return out
}

// open opens a log that is closed at the end of the test. Tests that close a log run in a
// synctest bubble, where the time limit of Close cannot expire while lines are written.
func open(t *testing.T, c Config) *Log {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestCloseWritesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p, Instance: "c8f3"})
		for range 100 {
			l.Connection(finished())
		}
		l.Logger().Info().Msg("stopped")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if n := len(p.entries(t, "connection", 0)); n != 100 || len(p.entries(t, "stopped", 0)) != 1 || l.Dropped() != 0 {
			t.Errorf("%d of 100 lines written, %d dropped:\n%s", n, l.Dropped(), p.text.String())
		}
		if l.Close() != nil {
			t.Error("the second Close returned an error")
		}
		l.Connection(finished())
		if l.Dropped() != 1 {
			t.Errorf("%d lines dropped after a line to a closed log, want 1", l.Dropped())
		}
	})
}

func TestInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var one, two paper
		a, b := open(t, Config{Writer: &one}), open(t, Config{Writer: &two})
		a.Connection(finished())
		b.Connection(finished())
		a.Close()
		b.Close()
		x, y := one.entries(t, "connection", 0)[0].ID, two.entries(t, "connection", 0)[0].ID
		if x == y || len(x) != len("01234567-2a") || !strings.HasSuffix(x, "-2a") {
			t.Errorf("IDs of two processes: %q and %q, want different prefixes", x, y)
		}
	})
}

func TestNewWithoutWriter(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New without a writer returned no error")
	}
}

// The writer is a terminal that was stopped with Ctrl-S, or a pipe without a
// reader.
func TestStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paper{gate: make(chan struct{})}
		l := open(t, Config{Writer: p})
		const lines = 1 + ringSize + 1000
		l.Connection(finished())
		time.Sleep(time.Second) // the writer has that line now
		for range lines - 1 {
			l.Connection(finished())
		}
		time.Sleep(time.Second) // the writer takes none meanwhile
		before := l.Dropped()
		if before != 1000 {
			t.Errorf("%d lines dropped while the writer was stuck, want 1000", before)
		}
		close(p.gate)
		time.Sleep(time.Second)
		written, reports := p.entries(t, "connection", 0), p.entries(t, "log lines dropped", 0)
		if l.Dropped() < before || uint64(len(written))+l.Dropped() != lines {
			t.Errorf("%d lines written and %d dropped (%d before), want %d in total", len(written), l.Dropped(), before, lines)
		}
		if len(reports) != 1 || reports[0].Count != l.Dropped() || reports[0].Level != "warn" {
			t.Errorf("drops are reported as %+v, want one report of %d", reports, l.Dropped())
		}
		l.Close()
	})
}

func TestCloseDoesNotWaitForAStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paper{gate: make(chan struct{})}
		l := open(t, Config{Writer: p})
		l.Connection(finished())
		start := time.Now()
		if err := l.Close(); err == nil || time.Since(start) != closeWait {
			t.Errorf("Close with a stuck writer: %v after %v, want an error after %v", err, time.Since(start), closeWait)
		}
		close(p.gate)
	})
}

// The disk becomes full in the middle of a line, and has room again later.
func TestFailingWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p})
		l.Connection(finished())
		time.Sleep(time.Second)
		p.breakWith(syscall.ENOSPC, true)
		for range 5 {
			l.Connection(finished())
		}
		time.Sleep(time.Second)
		if l.Dropped() != 5 {
			t.Errorf("%d lines dropped on a full disk, want 5", l.Dropped())
		}
		p.breakWith(nil, false)
		l.Connection(finished())
		l.Connection(finished())
		time.Sleep(time.Second)
		reports := p.entries(t, "log lines dropped", 1)
		if len(p.entries(t, "connection", 1)) != 3 || len(reports) != 1 || reports[0].Count != 5 {
			t.Errorf("after the disk had room again:\n%s", p.text.String())
		}
		l.Close()
	})
}

func TestShortWriteIsAnError(t *testing.T) {
	s := newSink(Config{Writer: shortWriter{}, Format: JSON, Now: time.Now})
	if _, err := s.Write([]byte("{}\n")); err == nil || s.lost.Load() != 1 {
		t.Errorf("short write: error %v, %d lines lost", err, s.lost.Load())
	}
}

// shortWriter writes one byte and returns no error, against the rules of
// [io.Writer].
type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 1, nil }

func TestFloodIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p})
		for range 3 { // seconds
			for range 1000 {
				l.Connection(refused())
				l.Connection(finished())
			}
			untrusted := refused()
			untrusted.Outcome = record.Untrusted
			l.Connection(untrusted)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second) // the flood is over
		count := make(map[string]int)
		for _, e := range p.entries(t, "connection", 0) {
			count[e.Outcome]++
		}
		if count["ok"] != 3000 || count["not_proxy"] != 3*perSecond || count["untrusted"] != 3 {
			t.Errorf("lines by outcome: %v, want 3000 ok, %d not_proxy, 3 untrusted", count, 3*perSecond)
		}
		leftOut := uint64(0)
		for _, e := range p.entries(t, "connections left out", 0) {
			if e.Outcome != "not_proxy" || e.Level != "warn" {
				t.Errorf("report of lines left out: %+v", e)
			}
			leftOut += e.Count
		}
		if leftOut != 3*(1000-perSecond) {
			t.Errorf("%d lines reported as left out, want %d", leftOut, 3*(1000-perSecond))
		}
		l.Close()
	})
}

func TestCloseReportsAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p, Now: func() time.Time { return noon }})
		for range perSecond + 7 {
			l.Connection(refused())
		}
		l.Close()
		reports := p.entries(t, "connections left out", 0)
		if len(reports) != 1 || reports[0].Count != 7 || reports[0].Time != "2026-11-22T12:00:00.123Z" {
			t.Errorf("reports %+v, want one of 7 lines at noon", reports)
		}
	})
}

// With several event loops, no line is lost and none counted twice.
func TestConcurrentLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p, Now: func() time.Time { return noon }})
		const loops, each = 4, 1000
		var wg sync.WaitGroup
		for range loops {
			wg.Go(func() {
				for range each {
					l.Connection(finished())
					l.Connection(refused())
				}
			})
		}
		wg.Wait()
		l.Close()
		count := make(map[string]int)
		for _, e := range p.entries(t, "connection", 0) {
			count[e.Outcome]++
		}
		leftOut := 0
		for _, e := range p.entries(t, "connections left out", 0) { // one per second of this test
			leftOut += int(e.Count)
		}
		if count["not_proxy"] != perSecond || leftOut != loops*each-perSecond {
			t.Errorf("%d refusals written and %d left out, want %d of %d", count["not_proxy"], leftOut, perSecond, loops*each)
		}
		if uint64(count["ok"])+l.Dropped() != loops*each {
			t.Errorf("%d ok lines and %d dropped, want %d in total", count["ok"], l.Dropped(), loops*each)
		}
	})
}

func TestAdmit(t *testing.T) {
	var f flood
	admitted := func(at time.Time, n int) (out int) {
		for range n {
			if f.admit(at) {
				out++
			}
		}
		return out
	}
	for _, step := range []struct {
		at      time.Duration
		n, want int
	}{
		{0, perSecond, perSecond}, {500 * time.Millisecond, 5, 0}, {time.Second, 100, perSecond},
		{5 * time.Second, 3, 3}, {5 * time.Second, 100, perSecond - 3},
		{-time.Hour, 1, 1}, // the clock was set back
	} {
		if got := admitted(time.Unix(1e9, 0).Add(step.at), step.n); got != step.want {
			t.Errorf("%v: %d of %d admitted, want %d", step.at, got, step.n, step.want)
		}
	}
	if want := uint64(5 + 100 - perSecond + 100 - perSecond + 3); f.leftOut.Load() != want {
		t.Errorf("%d lines left out, want %d", f.leftOut.Load(), want)
	}
}

// Loggers of libraries print to Standard, and the ring itself does so through the
// standard logger.
func TestStandard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p})
		library := log.New(l.Standard(), "", 0)
		library.Println("http: TLS handshake error \x1b[31m")
		library.Println("Diode set collision: consider using a larger diode")
		time.Sleep(time.Second)
		got := p.entries(t, "message from a library", 0)
		if len(got) != 1 || got[0].Detail != `"http: TLS handshake error \x1b[31m"` || got[0].Level != "warn" {
			t.Errorf("the log has %+v, want one quoted line at level warn", got)
		}
		l.Close()
	})
}

// New must not change the standard logger, which belongs to the process.
func TestStandardLoggerIsLeftAlone(t *testing.T) {
	before := log.Writer()
	open(t, Config{Writer: io.Discard})
	if log.Writer() != before {
		t.Error("New changed the output of the standard logger")
	}
}

// Writers to Standard may be event loops: a full or closed log must not block them.
func TestStandardDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Writer: io.Discard})
		l.Close()
		for range 2 * librariesRoom {
			if n, err := l.Standard().Write([]byte("line\n")); n != 5 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if len(l.libraries) != librariesRoom {
			t.Errorf("%d lines wait, want %d", len(l.libraries), librariesRoom)
		}
	})
}

func TestLineAfterATornLine(t *testing.T) {
	p := &paper{fail: syscall.ENOSPC, half: true}
	w := &lineWriter{w: p}
	if _, err := w.Write([]byte("abcd\n")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("lost\n")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	p.breakWith(nil, false)
	for range 2 {
		if _, err := w.Write([]byte("whole\n")); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.text.String(); got != "ab\nwhole\nwhole\n" {
		t.Errorf("wrote %q", got)
	}
}

package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"log"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"unproxy/gateway/record"
)

// paper is a writer that tests read, stop and break. All of it is guarded by
// mu but gate, which a write waits for if there is one.
type paper struct {
	gate chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
	fail error // what writes answer
	half bool  // a failing write still takes half of the line
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

// breakWith lets writes fail with err from now on; nil mends them.
func (p *paper) breakWith(err error, half bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail, p.half = err, half
}

// entry is what tests look at in a line.
type entry struct {
	Level, Message, Outcome, ID, Detail, Time string
	Count                                     uint64
}

// entries returns the lines with a message. It fails the test for any line
// that is not JSON, of which broken are expected.
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

// open opens a log that is closed with the test.
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
		t.Errorf("%d lines of 100 and %d dropped:\n%s", n, l.Dropped(), p.text.String())
	}
	if l.Close() != nil {
		t.Error("the second Close has an error")
	}
	l.Connection(finished())
	if l.Dropped() != 1 {
		t.Errorf("%d lines dropped after one line to a closed log, want 1", l.Dropped())
	}
}

func TestInstances(t *testing.T) {
	var one, two paper
	a, b := open(t, Config{Writer: &one}), open(t, Config{Writer: &two})
	a.Connection(finished())
	b.Connection(finished())
	a.Close()
	b.Close()
	x, y := one.entries(t, "connection", 0)[0].ID, two.entries(t, "connection", 0)[0].ID
	if x == y || len(x) != len("01234567-2a") || !strings.HasSuffix(x, "-2a") {
		t.Errorf("the ids of two processes are %q and %q", x, y)
	}
}

func TestNewRefusesNoWriter(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New without a writer has no error")
	}
}

// A terminal that was stopped with Ctrl-S, or a pipe that nobody reads.
func TestStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paper{gate: make(chan struct{})}
		l := open(t, Config{Writer: p})
		const lines = 1 + ringSize + 1000
		l.Connection(finished())
		time.Sleep(time.Second) // that one is in the writer's hands now
		for range lines - 1 {
			l.Connection(finished())
		}
		time.Sleep(time.Second) // the writer takes none in all that time
		before := l.Dropped()
		if before != 1000 {
			t.Errorf("%d lines dropped while the writer is stuck, want 1000", before)
		}
		close(p.gate)
		time.Sleep(time.Second)
		written, told := p.entries(t, "connection", 0), p.entries(t, "log lines dropped", 0)
		if l.Dropped() < before || uint64(len(written))+l.Dropped() != lines {
			t.Errorf("%d lines written and %d dropped (%d before), want %d together", len(written), l.Dropped(), before, lines)
		}
		if len(told) != 1 || told[0].Count != l.Dropped() || told[0].Level != "warn" {
			t.Errorf("the log tells of drops as %+v, want once with a count of %d", told, l.Dropped())
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
			t.Errorf("Close of a stuck log: %v after %v, want an error after %v", err, time.Since(start), closeWait)
		}
		close(p.gate)
	})
}

// A disk that becomes full in the middle of a line, and has room again later.
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
		told := p.entries(t, "log lines dropped", 1)
		if len(p.entries(t, "connection", 1)) != 3 || len(told) != 1 || told[0].Count != 5 {
			t.Errorf("after the disk has room again:\n%s", p.text.String())
		}
		l.Close()
	})
}

func TestWriterThatTakesLessIsAFailure(t *testing.T) {
	s := newSink(Config{Writer: shortWriter{}, Format: JSON, Now: time.Now})
	if _, err := s.Write([]byte("{}\n")); err == nil || s.lost.Load() != 1 {
		t.Errorf("a line that was cut short: %v, %d lost", err, s.lost.Load())
	}
}

// shortWriter takes one byte, against the rules of [io.Writer] in silence.
type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 1, nil }

func TestFloodIsThinned(t *testing.T) {
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
		time.Sleep(2 * time.Second) // the flood just stops
		count := make(map[string]int)
		for _, e := range p.entries(t, "connection", 0) {
			count[e.Outcome]++
		}
		if count["ok"] != 3000 || count["not_proxy"] != 3*perSecond || count["untrusted"] != 3 {
			t.Errorf("lines by outcome %v, want all 3000 of ok, %d of not_proxy, all 3 of untrusted", count, 3*perSecond)
		}
		left := uint64(0)
		for _, e := range p.entries(t, "connections left out", 0) {
			if e.Outcome != "not_proxy" || e.Level != "warn" {
				t.Errorf("left out: %+v", e)
			}
			left += e.Count
		}
		if left != 3*(1000-perSecond) {
			t.Errorf("%d lines are said to be left out, want %d", left, 3*(1000-perSecond))
		}
		l.Close()
	})
}

func TestCloseTellsOfAFlood(t *testing.T) {
	var p paper
	l := open(t, Config{Writer: &p, Now: func() time.Time { return noon }})
	for range perSecond + 7 {
		l.Connection(refused())
	}
	l.Close()
	told := p.entries(t, "connections left out", 0)
	if len(told) != 1 || told[0].Count != 7 || told[0].Time != "2026-11-22T12:00:00.123Z" {
		t.Errorf("left out: %+v, want 7 at noon", told)
	}
}

// Several event loops at once: nothing is lost and nothing counted twice.
func TestConcurrentLoops(t *testing.T) {
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
	left := 0
	for _, e := range p.entries(t, "connections left out", 0) { // one for each second that this took
		left += int(e.Count)
	}
	if count["not_proxy"] != perSecond || left != loops*each-perSecond {
		t.Errorf("%d refusals written and %d left out, want %d of %d", count["not_proxy"], left, perSecond, loops*each)
	}
	if uint64(count["ok"])+l.Dropped() != loops*each {
		t.Errorf("%d lines of ok and %d dropped, want %d together", count["ok"], l.Dropped(), loops*each)
	}
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
	if want := uint64(5 + 100 - perSecond + 100 - perSecond + 3); f.left.Load() != want {
		t.Errorf("%d left out, want %d", f.left.Load(), want)
	}
}

// An HTTP server complains to the standard library's logger, and so does the
// ring when two writers meet in it.
func TestStandard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paper
		l := open(t, Config{Writer: &p})
		library := log.New(l.Standard(), "", 0)
		library.Println("http: TLS handshake error \x1b[31m")
		library.Println("Diode set collision: consider using a larger diode")
		time.Sleep(time.Second)
		got := p.entries(t, "message of a library", 0)
		if len(got) != 1 || !strings.Contains(got[0].Detail, `handshake error \x1b[31m`) {
			t.Errorf("the log has %+v", got)
		}
		l.Close()
	})
}

// Its caller holds a lock that every other caller waits for.
func TestStrayDoesNotBlock(t *testing.T) {
	s := newStray()
	for range 2 * cap(s.lines) {
		if n, err := s.Write([]byte("line\n")); n != 5 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if len(s.lines) != cap(s.lines) {
		t.Errorf("%d lines wait, want %d", len(s.lines), cap(s.lines))
	}
}

func TestLineWriterKeepsLinesApart(t *testing.T) {
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
		t.Errorf("%q is written", got)
	}
}

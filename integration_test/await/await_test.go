package await

import (
	"testing"
	"time"
)

// limited is a test whose binary times out at end.
type limited struct {
	testing.TB
	end time.Time
}

func (l limited) Deadline() (time.Time, bool) { return l.end, !l.end.IsZero() }

func TestDeadline(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name string
		end  time.Time
		want time.Duration
	}{
		{"no -timeout", time.Time{}, Patience},
		{"a long one", now.Add(time.Hour), Patience},
		{"a short one", now.Add(time.Minute), time.Minute - margin},
	} {
		earliest := now.Add(row.want)
		got := Deadline(limited{t, row.end})
		if got.Before(earliest) || got.After(time.Now().Add(row.want)) {
			t.Errorf("%s: the wait ends at %v, want %v after %v", row.name, got, row.want, now)
		}
	}
	if end := Deadline(new(testing.B)); end.Before(now.Add(Patience)) {
		t.Errorf("a benchmark's wait ends at %v", end)
	}
}

// The condition is checked at least once, even after the timeout.
func TestForChecksAtLeastOnce(t *testing.T) {
	over := limited{t, time.Now()}
	looks := 0
	if !For(over, func() bool { looks++; return true }) || looks != 1 {
		t.Errorf("a condition that holds was checked %d times", looks)
	}
	if For(over, func() bool { return false }) {
		t.Error("a condition that never holds was reported true")
	}
	looks = 0
	if !For(t, func() bool { looks++; return looks == 3 }) {
		t.Error("a condition that holds later was reported false")
	}
}

func TestReceive(t *testing.T) {
	c := make(chan int, 1)
	c <- 7
	if got := Receive(t, "a number", c); got != 7 {
		t.Errorf("received %d, want 7", got)
	}
	close(c)
	if got := Receive(t, "the end", c); got != 0 {
		t.Errorf("received %d from a closed channel, want 0", got)
	}
}

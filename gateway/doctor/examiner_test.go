package doctor

import (
	"context"
	"testing"
	"time"
)

// clock is one that stands until it is moved.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

// about returns the findings of one target.
func about(all []Finding, target string) (found []Finding) {
	for _, f := range all {
		if f.Target == target {
			found = append(found, f)
		}
	}
	return found
}

func TestExaminer(t *testing.T) {
	const address = "127.0.0.1:22"
	w := healthy()
	watch, _, _ := watched(t, w, ssh)
	c, warnings := configured(t, ssh)
	at := &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	e := NewExaminer(w.host(), Subject{Config: c, Warnings: warnings, Descriptors: 20000}, watch, at.read)
	if all, ended := e.Findings(); len(all) != 0 || !ended.IsZero() {
		t.Fatalf("at first it knows %+v of %v", all, ended)
	}
	watch.round(context.Background())
	all, ended := e.Findings()
	if len(all) != 1 || all[0].Code != ReturnPath || all[0].Status != OK || !ended.IsZero() {
		t.Errorf("what the watch saw: %+v, %v", all, ended)
	}

	e.Examine(context.Background())
	all, ended = e.Findings()
	if len(all) < 5 || !ended.Equal(at.now) {
		t.Errorf("after the examination there is %+v of %v", all, ended)
	}
	if of := about(all, address); len(of) != 2 || of[0].Component != returnPath || of[1].Component != backend {
		t.Errorf("of the backend it knows %+v", of)
	}

	// The watch goes on; what it sees is newer.
	w.gone, w.client[address] = allGone, timedOut
	watch.round(context.Background())
	all, _ = e.Findings()
	if of := about(all, address); len(of) != 2 || of[0].Status != Fail || len(of[0].Action) == 0 {
		t.Errorf("once the way back is broken it knows %+v", of)
	}
}

// Who asks again within a minute connects to no backend.
func TestExaminerRests(t *testing.T) {
	w := healthy()
	connected := 0
	w.transmission = func(Attempt) error {
		connected++
		return nil
	}
	c, _ := configured(t, ssh)
	at := &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	e := NewExaminer(w.host(), Subject{Config: c}, nil, at.read)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	e.Examine(cancelled)
	if _, ended := e.Findings(); !ended.IsZero() {
		t.Error("it keeps what was cut short")
	}
	for _, step := range []struct {
		pass time.Duration
		more bool
	}{{0, true}, {0, false}, {restTime - 1, false}, {1, true}, {time.Second, false}} {
		at.now = at.now.Add(step.pass)
		before := connected
		e.Examine(context.Background())
		if (connected > before) != step.more {
			t.Errorf("after %v more: %d attempts, then %d", step.pass, before, connected)
		}
	}
}

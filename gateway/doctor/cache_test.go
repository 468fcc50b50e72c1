package doctor

import (
	"context"
	"slices"
	"testing"
	"time"
)

// clock is a clock that tests advance.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

// about returns the findings about a target.
func about(all []Finding, target string) (found []Finding) {
	for _, f := range all {
		if f.Target == target {
			found = append(found, f)
		}
	}
	return found
}

func TestCache(t *testing.T) {
	const address = "127.0.0.1:22"
	w := healthy()
	watch, _ := watched(t, w, ssh)
	c, warnings := configFor(t, ssh)
	at := &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	cache := NewCache(w.host(), Subject{Config: c, Warnings: warnings, Descriptors: 20000}, watch, at.read)
	if all, ended := cache.Findings(); len(all) != 0 || !ended.IsZero() {
		t.Fatalf("a new cache: %+v, ended %v", all, ended)
	}
	watch.round(context.Background(), true)
	all, ended := cache.Findings()
	if len(all) != 1 || all[0].Code != ReturnPath || all[0].Status != OK || !ended.IsZero() {
		t.Errorf("findings of the watch: %+v, %v", all, ended)
	}

	cache.Refresh(context.Background())
	all, ended = cache.Findings()
	if len(all) < 5 || !ended.Equal(at.now) {
		t.Errorf("after Refresh: %+v, ended %v", all, ended)
	}
	if of := about(all, address); len(of) != 2 || of[0].Component != returnPath || of[1].Component != backend {
		t.Errorf("findings about the backend: %+v", of)
	}

	// A later finding of the watch replaces the one of the run.
	w.missing, w.client[address] = allMissing, timedOut
	watch.round(context.Background(), true)
	all, _ = cache.Findings()
	if of := about(all, address); len(of) != 2 || of[0].Status != Fail || len(of[0].Hint) == 0 {
		t.Errorf("after the return path broke: %+v", of)
	}
}

// The watch's finding about a promise replaces the one of the run, too.
func TestCacheOfPromises(t *testing.T) {
	w := healthy()
	w.offers = map[string]error{}
	watch, _ := watched(t, w, sshTOA)
	c, _ := configFor(t, sshTOA)
	cache := NewCache(w.host(), Subject{Config: c}, watch, nil)
	cache.Refresh(context.Background())
	w.offers["127.0.0.1:22"] = errUnpromised
	watch.round(context.Background(), true)
	all, _ := cache.Findings()
	var got []string
	for _, f := range about(all, "127.0.0.1:22") {
		got = append(got, string(f.Code)+" "+f.Status.String())
	}
	if want := []string{"toa_promise fail", "backend ok"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Within a minute after a run, Refresh connects to no backend.
func TestCacheLimitsRuns(t *testing.T) {
	w := healthy()
	connected := 0
	w.onConnect = func(Attempt) error {
		connected++
		return nil
	}
	c, _ := configFor(t, ssh)
	at := &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	cache := NewCache(w.host(), Subject{Config: c}, nil, at.read)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	cache.Refresh(cancelled)
	if _, ended := cache.Findings(); !ended.IsZero() {
		t.Error("the result of an interrupted run was kept")
	}
	for _, step := range []struct {
		pass time.Duration
		more bool
	}{{0, true}, {0, false}, {maxAge - 1, false}, {1, true}, {time.Second, false}} {
		at.now = at.now.Add(step.pass)
		before := connected
		cache.Refresh(context.Background())
		if (connected > before) != step.more {
			t.Errorf("%v later: %d attempts before, %d after", step.pass, before, connected)
		}
	}
}

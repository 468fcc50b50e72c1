package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"unproxy/transparent/returnpath"
)

// paced is a watch that runs, with a host whose routes change.
type paced struct {
	*world
	watch   *Watch
	change  chan struct{}
	started time.Time
	at      map[string][]time.Duration // by backend: when a client's connection began
}

// twoForwards has one forward whose return path breaks, and one for comparison.
const twoForwards = "--forward :2222=127.0.0.1:22 --forward :2525=127.0.0.2:25 --transparent on"

// runPaced runs a watch in a bubble of synctest until the test ends.
func runPaced(t *testing.T, interval time.Duration, prepare func(*world)) *paced {
	p := &paced{world: healthy(), change: make(chan struct{}), at: map[string][]time.Duration{}}
	p.world.changes = p.change
	p.watch, _ = watched(t, p.world, twoForwards)
	p.started = time.Now()
	prepare(p.world)
	p.onConnect = func(a Attempt) error {
		if !a.From.IsValid() {
			return p.plain[a.To.String()]
		}
		p.at[a.To.String()] = append(p.at[a.To.String()], time.Since(p.started))
		return p.client[a.To.String()]
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.watch.Run(ctx, interval, func() {})
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return p
}

// set sets whether the return path of the first forward works.
func (p *paced) set(works bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.client, "127.0.0.1:22")
	p.missing = func(returnpath.Plan) returnpath.Plan { return returnpath.Plan{} }
	if !works {
		breakSSH(p.world)
	}
}

func breakSSH(w *world) { w.missing, w.client["127.0.0.1:22"] = allMissing, timedOut }

// tests returns how often a backend was tested since the last call.
func (p *paced) tests(backend string) int {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.at[backend])
	delete(p.at, backend)
	return n
}

func (p *paced) ready() string {
	synctest.Wait()
	var words []string
	for i, f := range p.watch.Readiness.Report(2).Forwards {
		if !f.Serves {
			words = append(words, fmt.Sprintf("%d broken", i))
		}
	}
	return strings.Join(words, ", ")
}

// While a return path is broken it is tested every one or two seconds, and the others
// at the interval.
func TestWatchRetriesWhatIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := runPaced(t, time.Minute, breakSSH)
		time.Sleep(50 * time.Second)
		if broken, healthy := p.tests("127.0.0.1:22"), p.tests("127.0.0.2:25"); broken < 20 || broken > 50 || healthy != 1 {
			t.Errorf("in 50 s the broken one was tested %d times, the other one %d times", broken, healthy)
		}
		if got := p.ready(); got != "0 broken" {
			t.Errorf("%q", got)
		}
		p.set(true)
		time.Sleep(4 * time.Second)
		if got := p.ready(); got != "" {
			t.Errorf("four seconds after it was fixed, without an event: %q", got)
		}
		p.tests("127.0.0.1:22")
		time.Sleep(40 * time.Second)
		if n := p.tests("127.0.0.1:22"); n > 1 {
			t.Errorf("%d tests in 40 s of what works, at an interval of a minute", n)
		}
	})
}

// An interval that is shorter than a retry's stays.
func TestWatchShortInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := runPaced(t, 500*time.Millisecond, func(*world) {})
		time.Sleep(10 * time.Second)
		if n := p.tests("127.0.0.1:22"); n < 17 || n > 24 {
			t.Errorf("%d tests in 10 s", n)
		}
	})
}

// A change of the routes is noticed at once, in both directions, whatever the test is
// doing.
func TestWatchChanges(t *testing.T) {
	for _, during := range []time.Duration{0, 300 * time.Millisecond, time.Second, 1700 * time.Millisecond} {
		t.Run(during.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := runPaced(t, time.Hour, func(*world) {})
				time.Sleep(5 * time.Second)
				p.set(false)
				p.change <- struct{}{}
				time.Sleep(5 * time.Second)
				if got := p.ready(); got != "0 broken" {
					t.Fatalf("after the routes were removed %q", got)
				}
				time.Sleep(during)
				p.set(true)
				p.change <- struct{}{}
				time.Sleep(2 * settle)
				if got := p.ready(); got != "" {
					t.Errorf("after the routes were applied %q", got)
				}
			})
		})
	}
}

// A change during the first test, which takes long: what was true before it is not
// reported.
func TestWatchChangeDuringTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := runPaced(t, time.Hour, breakSSH)
		time.Sleep(time.Second) // of 1.5 without an answer
		p.set(true)
		p.change <- struct{}{}
		time.Sleep(2 * settle)
		if got := p.ready(); got != "" || len(p.watch.Findings()) != 2 {
			t.Errorf("%q, findings %v", got, p.watch.Findings())
		}
	})
}

// Changes without end neither make the tests endless nor keep them from ending.
func TestWatchStormOfChanges(t *testing.T) {
	for _, works := range []bool{true, false} {
		t.Run(fmt.Sprint("works ", works), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := runPaced(t, time.Hour, func(w *world) {
					if !works {
						breakSSH(w)
					}
				})
				for range 1000 { // 10 s
					time.Sleep(10 * time.Millisecond)
					p.change <- struct{}{}
				}
				if n := p.tests("127.0.0.2:25"); n < 3 || n > 25 { // one a second, which may begin again once
					t.Errorf("%d tests of what works in 10 s", n)
				}
				want := "0 broken"
				if works {
					want = ""
				}
				if got := p.ready(); got != want {
					t.Errorf("during the storm %q, want %q", got, want)
				}
			})
		})
	}
}

// The forwards that a broken return path leaves ready: those that have another backend
// for the same clients, or that do not use it.
func TestWatchReadinessOfForwards(t *testing.T) {
	const fails4, fails6 = "127.0.0.1:25", "[::1]:25"
	for _, tt := range []struct {
		name, flags string
		failing     []string
		serves      []bool
		degraded    []bool
	}{
		{"one of two forwards", "--forward :1=127.0.0.1:25 --forward :2=127.0.0.2:25 --transparent on",
			[]string{fails4}, []bool{false, true}, []bool{true, false}},
		{"a forward that is not transparent", "--forward :1=127.0.0.1:25?transparent=on --forward :2=127.0.0.1:25",
			[]string{fails4}, []bool{false, true}, []bool{true, false}},
		{"two forwards with one backend", "--forward :1=127.0.0.1:25 --forward :2=127.0.0.1:25 --transparent on",
			[]string{fails4}, []bool{false, false}, []bool{true, true}},
		{"another backend", "--forward :1=127.0.0.1:25,127.0.0.2:25 --transparent on",
			[]string{fails4}, []bool{true}, []bool{true}},
		{"both backends", "--forward :1=127.0.0.1:25,127.0.0.2:25 --transparent on",
			[]string{fails4, "127.0.0.2:25"}, []bool{false}, []bool{true}},
		{"the clients of one family", "--forward :1=127.0.0.1:25,[::1]:25 --transparent on",
			[]string{fails4}, []bool{false}, []bool{true}},
		{"the clients of the other family", "--forward :1=127.0.0.1:25,[::1]:25 --transparent on",
			[]string{fails6}, []bool{false}, []bool{true}},
		{"families that stand in for each other", "--forward :1=127.0.0.1:25,[::1]:25 --transparent on --family-mismatch plain",
			[]string{fails6}, []bool{true}, []bool{true}},
		{"a unix socket", "--forward :1=127.0.0.1:25,unix:/run/x.sock --transparent on",
			[]string{fails4}, []bool{true}, []bool{true}},
		{"UDP", "--forward :1=127.0.0.1:25 --forward udp://:1=127.0.0.1:25 --transparent on",
			[]string{fails4}, []bool{false, true}, []bool{true, false}},
		{"one end of a range", "--forward :1-3=127.0.0.1:25-27?on-demand=off --transparent on",
			[]string{fails4}, []bool{false}, []bool{true}},
		{"nothing fails", "--forward :1=127.0.0.1:25,[::1]:25 --transparent on", nil, []bool{true}, []bool{false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			w.missing = allMissing
			for _, a := range tt.failing {
				w.client[a] = timedOut
			}
			watch, _ := watched(t, w, tt.flags)
			watch.round(context.Background(), true)
			var serves, degraded []bool
			for _, f := range watch.Readiness.Report(len(watch.Config.Forwards)).Forwards {
				serves, degraded = append(serves, f.Serves), append(degraded, f.Degraded())
			}
			if !slices.Equal(serves, tt.serves) || !slices.Equal(degraded, tt.degraded) {
				t.Errorf("serves %v, want %v; degraded %v, want %v", serves, tt.serves, degraded, tt.degraded)
			}
		})
	}
}

package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"unproxy/gateway"
	"unproxy/integration_test/allocations"
	"unproxy/transparent/returnpath"
)

// round is what a round of tests meets, and what must come of it.
type round struct {
	name   string
	change func(*world)
	events []string // state, backend, action
	ready  bool
}

// watched makes a watch over a world, and tells what it is told.
func watched(t *testing.T, w *world, flags string) (*Watch, *gateway.Readiness, *[]string) {
	t.Helper()
	c, _ := config(t, flags)
	ready, told := &gateway.Readiness{}, &[]string{}
	return NewWatch(WatchConfig{
		Host: w.host(), Config: c, Readiness: ready, Apply: "unproxy routes apply --forward …",
		Notice: func(e Event) {
			state := [...]string{Untested: "untested", Works: "works", Broken: "broken"}[e.State]
			if e.First {
				state = "first " + state
			}
			*told = append(*told, strings.TrimSpace(state+" "+e.Backend+" "+e.Action))
			if len(e.Forwards) == 0 || (e.Detail == "") != (e.State == Works) {
				t.Errorf("half an event: %+v", e)
			}
		},
	}), ready, told
}

func TestWatch(t *testing.T) {
	const address = "127.0.0.1:22"
	broken := func(w *world) { w.gone, w.client[address] = allGone, timedOut }
	heals := func(w *world) {
		w.gone = func(returnpath.Plan) returnpath.Plan { return returnpath.Plan{} }
		delete(w.client, address)
		delete(w.plain, address)
	}
	down := func(w *world) { w.plain[address], w.client[address] = refusal(), refusal() }
	for _, tt := range []struct {
		name   string
		rounds []round
	}{
		{"it works, and that is no news", []round{{"at the start", nil, nil, true}, {"later", nil, nil, true}}},
		{"it is broken from the start", []round{
			{"at the start", broken, []string{"first broken " + address + " " + sshRoute + "; " + sshRule}, false},
			{"later", nil, nil, false},
			{"healed", heals, []string{"works " + address}, true},
			{"later", nil, nil, true},
			{"the table is flushed", func(w *world) {
				broken(w)
				w.gone = func(p returnpath.Plan) returnpath.Plan { p.Rules = nil; return p }
			}, []string{"broken " + address + " " + sshRoute}, false},
		}},
		{"the backend comes later", []round{
			{"at the start", down, []string{"first untested " + address}, true},
			{"later", nil, nil, true},
			{"it comes", heals, []string{"first works " + address}, true},
			{"it goes", down, nil, true},
			{"it comes again", heals, nil, true},
		}},
		{"the backend comes later, and is not set up", []round{
			{"at the start", down, []string{"first untested " + address}, true},
			{"it comes", func(w *world) { heals(w); broken(w) }, []string{"first broken " + address + " " + sshRoute + "; " + sshRule}, false},
			{"it goes, which says nothing", func(w *world) { down(w); w.client[address] = timedOut }, nil, false},
			{"it is back, and healed", heals, []string{"works " + address}, true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			watch, ready, told := watched(t, w, ssh)
			for i, r := range tt.rounds {
				if r.change != nil {
					r.change(w)
				}
				*told = nil
				watch.round(context.Background())
				if !slices.Equal(*told, r.events) {
					t.Errorf("round %d, %s: told\n%q\nwant\n%q", i, r.name, *told, r.events)
				}
				if got := len(ready.Reasons()) == 0; got != r.ready {
					t.Errorf("round %d, %s: ready %v, because of %v", i, r.name, got, ready.Reasons())
				}
			}
		})
	}
}

// A packet that is lost is no reason to cry.
func TestWatchTriesTwice(t *testing.T) {
	w := healthy()
	watch, ready, told := watched(t, w, ssh)
	n := 0
	w.transmission = func(a Attempt) error {
		if n++; n == 1 {
			return timedOut
		}
		return nil
	}
	watch.round(context.Background())
	if len(*told) > 0 || len(ready.Reasons()) > 0 || n != 3 {
		t.Errorf("told %q, not ready for %v, %d attempts", *told, ready.Reasons(), n)
	}
}

// In the ordinary case there is one connection a round to each address, and
// none to what is not transparent.
func TestWatchIsLight(t *testing.T) {
	w := healthy()
	watch, _, _ := watched(t, w, "--forward :2222=127.0.0.1:22 --forward :3000-3999=127.0.0.2:4000-4999?transparent=on --forward :25=header?transparent=on&allow-destination=10.9.0.0/16")
	watch.round(context.Background())
	var got []string
	for _, a := range w.attempts {
		if !a.From.IsValid() {
			t.Errorf("a plain attempt: %+v", a)
		}
		got = append(got, a.To.String())
	}
	slices.Sort(got)
	if want := []string{"127.0.0.2:4000", "127.0.0.2:4999"}; !slices.Equal(got, want) {
		t.Errorf("tried %q, want %q", got, want)
	}
	if w.looked > 0 {
		t.Error("what is in force was looked at, and nothing was wrong")
	}
}

// One that is broken makes the gateway unready, however many work.
func TestWatchReadiness(t *testing.T) {
	w := healthy()
	w.gone = allGone
	for _, a := range []string{"127.0.0.2:25", "127.0.0.3:25", "[::1]:25"} {
		w.client[a] = timedOut
	}
	watch, ready, told := watched(t, w, "--forward :2525=127.0.0.2:25,127.0.0.3:25,127.0.0.4:25 --forward :2626=[::1]:25 --transparent on")
	watch.round(context.Background())
	if len(*told) != 3 {
		t.Errorf("told %q", *told)
	}
	got := ready.Reasons()
	if len(got) != 1 || got[0].Reason != gateway.NotReadyReturnPath || !strings.HasPrefix(got[0].Detail, "127.0.0.2:25: a client of 192.0.2.0/24 is not answered") || !strings.HasSuffix(got[0].Detail, "with 2 more") {
		t.Errorf("not ready because of %+v", got)
	}
}

// A round that is cut short leaves everything as it was.
func TestWatchCutShort(t *testing.T) {
	w := healthy()
	w.client["127.0.0.1:22"], w.gone = timedOut, allGone
	watch, ready, told := watched(t, w, ssh)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	watch.round(ctx)
	if len(*told) > 0 || len(ready.Reasons()) > 0 {
		t.Errorf("told %q, not ready for %v", *told, ready.Reasons())
	}
}

// The first round is at once, the others about an interval apart; and it ends.
func TestWatchRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := healthy()
		watch, _, _ := watched(t, w, ssh)
		start := time.Now()
		var at []time.Duration
		w.transmission = func(Attempt) error { at = append(at, time.Since(start)); return nil }
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		firsts := 0
		watch.Run(ctx, 30*time.Second, func() { firsts++ })
		if firsts != 1 || at[0] != 0 || len(at) < 18 || len(at) > 23 {
			t.Fatalf("%d first rounds, tested at %v", firsts, at)
		}
		same := true
		for i := 1; i < len(at); i++ {
			d := at[i] - at[i-1]
			if d < 27*time.Second || d > 33*time.Second {
				t.Errorf("%v between two rounds", d)
			}
			same = same && d == at[1]-at[0]
		}
		if same {
			t.Error("all rounds are equally far apart: gateways that start together test together")
		}
	})
}

// With the tests off there are remedies all the same.
func TestWatchOff(t *testing.T) {
	w := healthy()
	watch, ready, _ := watched(t, w, ssh)
	w.client["127.0.0.1:22"] = timedOut
	first := false
	watch.Run(context.Background(), 0, func() { first = true })
	if !first || len(w.attempts) > 0 || len(ready.Reasons()) > 0 {
		t.Errorf("first %v, %d attempts, not ready because of %v", first, len(w.attempts), ready.Reasons())
	}
	if got, want := watch.Remedy(netip.MustParseAddr("127.0.0.1")), sshRoute+"; "+sshRule; got != want {
		t.Errorf("the remedy is %q, want %q", got, want)
	}
}

func TestRemedy(t *testing.T) {
	w := healthy()
	w.reach["10.9.0.2"], w.reach["10.8.0.0"] = link, returnpath.Reach{Place: returnpath.Link, Device: "br0", Forwards: true}
	w.names["mail.test"] = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	w.client["127.0.0.1:22"] = timedOut
	w.gone = func(p returnpath.Plan) returnpath.Plan { p.Rules = nil; return p }
	watch, _, _ := watched(t, w, "--forward :2222=127.0.0.1:22,mail.test:25 --forward :26=header?allow-destination=10.8.0.0/16 --transparent on")
	if got := watch.Remedy(netip.MustParseAddr("127.0.0.1")); got != "" {
		t.Errorf("before the first round: %q", got)
	}
	watch.round(context.Background())
	for _, tt := range []struct{ backend, want string }{
		{"127.0.0.1", sshRoute},                    // what was found
		{"10.9.0.2", sshRoute + "; " + remoteRule}, // all of the plan: it works, or did
		{"10.8.7.6", watch.Apply},                  // takes a table of the packet filter
		{"192.0.2.1", ""},
		{"::1", ""},
	} {
		a := netip.MustParseAddr(tt.backend)
		if got := watch.Remedy(a); got != tt.want {
			t.Errorf("the remedy of %s is %q, want %q", tt.backend, got, tt.want)
		}
		if n := allocations.PerRun(100, func() { watch.Remedy(a) }); n != 0 {
			t.Errorf("to ask for the remedy of %s allocates %v times", tt.backend, n)
		}
	}
}

func TestLine(t *testing.T) {
	for _, tt := range []struct{ action, want string }{
		{"ip a|ip b", "ip a; ip b"},
		{"ip a|# as root", "ip a"},
		{"# let it be|#   ip c", "let it be; ip c"},
		{"ip a|nft -f - <<'EOF'\ntable\nEOF", "apply"},
		{"", ""},
	} {
		var action []string
		if tt.action != "" {
			action = strings.Split(tt.action, "|")
		}
		if got := line(action, "apply"); got != tt.want {
			t.Errorf("%q in a line is %q, want %q", action, got, tt.want)
		}
	}
}

// A daemon starts no programs: of the packet filter it knows nothing then.
func TestWithoutPrograms(t *testing.T) {
	w := healthy()
	w.gone = allGone
	h := w.host().withoutPrograms()
	missing, err := h.Missing(context.Background(), returnpath.Plan{Rules: []returnpath.Rule{{}}, Filter: &returnpath.Filter{}})
	if fmt.Sprint(err) != fs.ErrPermission.Error() || missing.Filter != nil || len(missing.Rules) != 1 {
		t.Errorf("%+v, %v", missing, err)
	}
	if _, err := h.Missing(context.Background(), returnpath.Plan{}); err != nil {
		t.Errorf("without a packet filter: %v", err)
	}
}

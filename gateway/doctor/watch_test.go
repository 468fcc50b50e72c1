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

	"unproxy/gateway/readiness"
	"unproxy/integration_test/allocations"
	"unproxy/transparent/returnpath"
)

// round is a round of tests and its expected events.
type round struct {
	name   string
	change func(*world)
	events []string // state, backend, hint
	ready  bool
}

// reasons returns the reasons why the gateway of a watch is not ready, however many
// forwards are.
func reasons(w *Watch) []readiness.Reason { return w.Readiness.Report(len(w.Config.Forwards)).NotAll() }

// watched returns a watch of a world and its events.
func watched(t *testing.T, w *world, flags string) (*Watch, *[]string) {
	t.Helper()
	c, _ := configFor(t, flags)
	events := &[]string{}
	return NewWatch(WatchConfig{
		Host: w.host(), Config: c, Readiness: &readiness.State{}, ApplyCommand: "unproxy routes apply --forward …",
		Notice: func(e Event) {
			state := [...]string{Untested: "untested", Works: "works", Broken: "broken", Rewritten: "rewritten"}[e.State]
			if e.First {
				state = "first " + state
			}
			*events = append(*events, strings.TrimSpace(state+" "+e.Backend+" "+e.Hint))
			if len(e.Forwards) == 0 || (e.Detail == "") != (e.State == Works) {
				t.Errorf("incomplete event: %+v", e)
			}
		},
	}), events
}

// exemptSSH exempts connections to 127.0.0.1:22 from source NAT.
const exemptSSH = "nft 'table inet unproxy_source { chain postrouting { type nat hook postrouting priority -150; " +
	"meta skuid 0-4294967294 fib saddr type != local ip daddr 127.0.0.1 tcp dport 22 snat ip to ip saddr; }; }'"

func TestWatch(t *testing.T) {
	const address = "127.0.0.1:22"
	broken := func(w *world) { w.missing, w.client[address] = allMissing, timedOut }
	fix := func(w *world) {
		w.missing = func(returnpath.Plan) returnpath.Plan { return returnpath.Plan{} }
		delete(w.client, address)
		delete(w.plain, address)
	}
	down := func(w *world) { w.plain[address], w.client[address] = refusal(), refusal() }
	for _, tt := range []struct {
		name   string
		rounds []round
	}{
		{"works from the start: no event", []round{{"at the start", nil, nil, true}, {"later", nil, nil, true}}},
		{"broken from the start", []round{
			{"at the start", broken, []string{"first broken " + address + " " + sshRoute + "; " + sshRule}, false},
			{"later", nil, nil, false},
			{"fixed", fix, []string{"works " + address}, true},
			{"later", nil, nil, true},
			{"table flushed", func(w *world) {
				broken(w)
				w.missing = func(p returnpath.Plan) returnpath.Plan { p.Rules = nil; return p }
			}, []string{"broken " + address + " " + sshRoute}, false},
		}},
		{"the backend starts later", []round{
			{"at the start", down, []string{"first untested " + address}, true},
			{"later", nil, nil, true},
			{"it starts", fix, []string{"first works " + address}, true},
			{"it stops", down, nil, true},
			{"it starts again", fix, nil, true},
		}},
		{"the backend starts later, without a return path", []round{
			{"at the start", down, []string{"first untested " + address}, true},
			{"it starts", func(w *world) { fix(w); broken(w) },
				[]string{"first broken " + address + " " + sshRoute + "; " + sshRule}, false},
			{"it stops: inconclusive", func(w *world) { down(w); w.client[address] = timedOut }, nil, false},
			{"it starts again, fixed", fix, []string{"works " + address}, true},
		}},
		{"a masquerade rule appears and goes", []round{
			{"at the start", nil, nil, true},
			{"it appears", func(w *world) { w.sent[address] = ap("10.0.0.1:1") },
				[]string{"rewritten " + address + " " + exemptSSH}, false},
			{"later", nil, nil, false},
			{"packets cannot be seen", func(w *world) { w.sent[address] = netip.AddrPort{} }, []string{"works " + address}, true},
			{"it appears again", func(w *world) { w.sent[address] = ap("10.0.0.1:1") },
				[]string{"rewritten " + address + " " + exemptSSH}, false},
			{"the return path breaks", broken, []string{"broken " + address + " " + sshRoute + "; " + sshRule}, false},
			{"both are fixed", func(w *world) { fix(w); delete(w.sent, address) }, []string{"works " + address}, true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			watch, events := watched(t, w, ssh)
			for i, r := range tt.rounds {
				if r.change != nil {
					r.change(w)
				}
				*events = nil
				watch.round(context.Background(), true)
				if !slices.Equal(*events, r.events) {
					t.Errorf("round %d, %s: events\n%q\nwant\n%q", i, r.name, *events, r.events)
				}
				if got := len(reasons(watch)) == 0; got != r.ready {
					t.Errorf("round %d, %s: ready %v, reasons %v", i, r.name, got, reasons(watch))
				}
			}
		})
	}
}

// A backend that listens on demand is not expected to listen at the start. The RST
// of its host shows that replies return; without one the test is inconclusive.
func TestWatchOfBackendOnDemand(t *testing.T) {
	for _, tt := range []struct {
		flags  string
		client error
		events []string
	}{
		{ssh, refusal(), []string{"first untested 127.0.0.1:22"}},
		{ssh + " --on-demand on", refusal(), nil},
		{ssh + " --on-demand on", timedOut, nil},
	} {
		w := healthy()
		w.plain["127.0.0.1:22"], w.client["127.0.0.1:22"] = refusal(), tt.client
		watch, events := watched(t, w, tt.flags)
		watch.round(context.Background(), true)
		if !slices.Equal(*events, tt.events) || len(reasons(watch)) > 0 {
			t.Errorf("%s, %v: events %q, reasons %v", tt.flags, tt.client, *events, reasons(watch))
		}
	}
}

// A single lost packet is not a failure.
func TestWatchRetries(t *testing.T) {
	w := healthy()
	watch, events := watched(t, w, ssh)
	n := 0
	w.onConnect = func(a Attempt) error {
		if n++; n == 1 {
			return timedOut
		}
		return nil
	}
	watch.round(context.Background(), true)
	if len(*events) > 0 || len(reasons(watch)) > 0 || n != 3 {
		t.Errorf("events %q, reasons %v, %d attempts", *events, reasons(watch), n)
	}
}

// A round makes one connection to each backend address of a working transparent
// forward, and none to those of other forwards.
func TestWatchConnectsOnce(t *testing.T) {
	w := healthy()
	watch, _ := watched(t, w, "--forward :2222=127.0.0.1:22 "+
		"--forward :3000-3999=127.0.0.2:4000-4999?transparent=on "+
		"--forward :25=header?transparent=on&allow-destination=10.9.0.0/16")
	watch.round(context.Background(), true)
	var got []string
	for _, a := range w.attempts {
		if !a.From.IsValid() {
			t.Errorf("attempt from the gateway's address: %+v", a)
		}
		got = append(got, a.To.String())
	}
	slices.Sort(got)
	if want := []string{"127.0.0.2:4000", "127.0.0.2:4999"}; !slices.Equal(got, want) {
		t.Errorf("attempts to %q, want %q", got, want)
	}
	if w.missingCalls > 0 {
		t.Error("the rules in force were read although the test succeeded")
	}
}

// The broken return paths of several forwards are one reason.
func TestWatchReadiness(t *testing.T) {
	w := healthy()
	w.missing = allMissing
	for _, a := range []string{"127.0.0.2:25", "127.0.0.3:25", "[::1]:25"} {
		w.client[a] = timedOut
	}
	watch, events := watched(t, w, "--forward :2525=127.0.0.2:25,127.0.0.3:25,127.0.0.4:25 --forward :2626=[::1]:25 --transparent on")
	watch.round(context.Background(), true)
	if len(*events) != 3 {
		t.Errorf("events %q", *events)
	}
	got := reasons(watch)
	if len(got) != 1 || got[0].Word != readiness.ReturnPath ||
		!strings.HasPrefix(got[0].Detail, "127.0.0.2:25: a client in 192.0.2.0/24 is not answered") ||
		!strings.HasSuffix(got[0].Detail, "; and 1 more; and 1 of other forwards") {
		t.Errorf("reasons %+v", got)
	}
}

// An interrupted round changes nothing.
func TestWatchInterrupted(t *testing.T) {
	w := healthy()
	w.client["127.0.0.1:22"], w.missing = timedOut, allMissing
	watch, events := watched(t, w, ssh)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	watch.round(ctx, true)
	if len(*events) > 0 || len(reasons(watch)) > 0 {
		t.Errorf("events %q, reasons %v", *events, reasons(watch))
	}
}

// The first round starts at once, the others about an interval apart, until the
// context ends.
func TestWatchRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := healthy()
		watch, _ := watched(t, w, ssh)
		start := time.Now()
		var at []time.Duration
		w.onConnect = func(Attempt) error { at = append(at, time.Since(start)); return nil }
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
				t.Errorf("%v between rounds", d)
			}
			same = same && d == at[1]-at[0]
		}
		if same {
			t.Error("no jitter between rounds")
		}
	})
}

// Hints are available without tests.
func TestWatchOff(t *testing.T) {
	w := healthy()
	watch, _ := watched(t, w, ssh)
	w.client["127.0.0.1:22"] = timedOut
	first := false
	watch.Run(context.Background(), 0, func() { first = true })
	if !first || len(w.attempts) > 0 || len(reasons(watch)) > 0 {
		t.Errorf("first %v, %d attempts, reasons %v", first, len(w.attempts), reasons(watch))
	}
	if got, want := watch.Hint(netip.MustParseAddr("127.0.0.1")), sshRoute+"; "+sshRule; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
}

func TestWatchHint(t *testing.T) {
	w := healthy()
	w.reach["10.9.0.2"], w.reach["10.8.0.0"] = link,
		returnpath.Reach{Place: returnpath.Link, Device: "br0", Forwards: true}
	w.names["mail.test"] = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	w.client["127.0.0.1:22"] = timedOut
	w.missing = func(p returnpath.Plan) returnpath.Plan { p.Rules = nil; return p }
	watch, _ := watched(t, w, "--forward :2222=127.0.0.1:22,mail.test:25 "+
		"--forward :26=header?allow-destination=10.8.0.0/16 --transparent on")
	label := fmt.Sprintf("protocol %d", watch.Config.Targets().Owner()) // the backend has a name
	if got := watch.Hint(netip.MustParseAddr("127.0.0.1")); got != "" {
		t.Errorf("before the first round: %q", got)
	}
	watch.round(context.Background(), true)
	for _, tt := range []struct{ backend, want string }{
		{"127.0.0.1", sshRoute}, // of the finding
		{"10.9.0.2", sshRoute + "; " + strings.ReplaceAll(remoteRule, "protocol 100", label)}, // all of the plan
		{"10.8.7.6", watch.ApplyCommand}, // needs the packet filter
		{"192.0.2.1", ""},
		{"::1", ""},
	} {
		a := netip.MustParseAddr(tt.backend)
		if got := watch.Hint(a); got != tt.want {
			t.Errorf("Hint(%s) = %q, want %q", tt.backend, got, tt.want)
		}
		if n := allocations.PerRun(100, func() { watch.Hint(a) }); n != 0 {
			t.Errorf("Hint(%s) allocates %v times", tt.backend, n)
		}
	}
}

func TestHintLine(t *testing.T) {
	for _, tt := range []struct{ hint, want string }{
		{"ip a|ip b", "ip a; ip b"},
		{"ip a|# as root", "ip a"},
		{"# let it be|#   ip c", "let it be; ip c"},
		{"ip a|nft -f - <<'EOF'\ntable\nEOF", "apply"},
		{"", ""},
	} {
		var hint []string
		if tt.hint != "" {
			hint = strings.Split(tt.hint, "|")
		}
		if got := hintLine(hint, "apply"); got != tt.want {
			t.Errorf("hintLine(%q) = %q, want %q", hint, got, tt.want)
		}
	}
}

// Without programs the packet filter is unreadable.
func TestWithoutPrograms(t *testing.T) {
	w := healthy()
	w.missing = allMissing
	h := w.host().withoutPrograms()
	missing, err := h.Missing(context.Background(),
		returnpath.Plan{Rules: []returnpath.Rule{{}}, Filter: &returnpath.Filter{}})
	if fmt.Sprint(err) != fs.ErrPermission.Error() || missing.Filter != nil || len(missing.Rules) != 1 {
		t.Errorf("%+v, %v", missing, err)
	}
	if _, err := h.Missing(context.Background(), returnpath.Plan{}); err != nil {
		t.Errorf("plan without a filter: %v", err)
	}
}

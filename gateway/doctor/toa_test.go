package doctor

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/readiness"
	"unproxy/transparent/toa"
)

const sshTOA = "--forward :2222=127.0.0.1:22 --transparent toa --local close"

// Each row is a gateway whose host is healthy with one fault, and all findings that are not ok.
func TestTOA(t *testing.T) {
	unattached := os.NewSyscallError("setsockopt", unix.ENOPROTOOPT)
	for _, tt := range []struct {
		name, flags string
		fault       func(*world)
		want        []string
	}{
		{"nothing is wrong", sshTOA, func(*world) {}, nil},
		{"no capability and no route is needed", sshTOA, func(w *world) {
			w.optionErr, w.missing, w.client["127.0.0.1:22"] = unix.EPERM, allMissing, timedOut
		}, nil},
		{"nothing attached here", sshTOA, func(w *world) { w.programsErr = unattached },
			[]string{"toa_attached TCP option fail; unproxy toa attach --gateway --cgroup /system.slice/unproxy.service"}},
		{"nothing attached at the root, which attach refuses", sshTOA, func(w *world) {
			w.programsErr, w.files["proc/self/cgroup"] = unattached, "0::/\n"
		}, []string{"toa_attached TCP option fail; unproxy toa attach --gateway --cgroup system.slice/unproxy.service"}},
		{"no promise", sshTOA, func(w *world) { w.offers["127.0.0.1:22"] = errUnpromised },
			[]string{"toa_promise 127.0.0.1:22 fail; unproxy toa attach --from 10.9.0.1 --port 22"}},
		{"the source is not this host's", sshTOA + " --toa-source 10.0.0.99", func(w *world) {
			w.offers["127.0.0.1:22"] = os.NewSyscallError("bind", unix.EADDRNOTAVAIL)
		}, []string{"source_address 10.0.0.99 fail; ip address add 10.0.0.99/32 dev lo", "toa_promise 127.0.0.1:22 fail"}},
		{"the backend is down", sshTOA, func(w *world) { w.plain["127.0.0.1:22"] = refusal() },
			[]string{"backend_refused 127.0.0.1:22 fail"}},
		{"legacy", sshTOA + " --toa-format legacy", func(*world) {},
			[]string{"configuration settings warn", "toa_promise 127.0.0.1:22 skip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			w.offers = map[string]error{}
			w.files["proc/self/cgroup"] = "1:net_cls:/other\n0::/system.slice/unproxy.service\n"
			tt.fault(w)
			w.files["proc/18/cgroup"] = w.files["proc/self/cgroup"] // the gateway's
			got := w.run(t, tt.flags).lines(false)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q\nwant\n%q", got, tt.want)
			}
			for _, a := range w.attempts {
				if a.From.IsValid() {
					t.Errorf("a connection from a client's address: %+v", a)
				}
			}
		})
	}
}

// In another cgroup than the gateway's the doctor cannot tell, and says so: it does not fail.
// The running gateway's own results replace its own.
func TestTOAFromAnotherCgroup(t *testing.T) {
	unattached := os.NewSyscallError("setsockopt", unix.ENOPROTOOPT)
	const shell, service = "0::/user.slice/session-1.scope\n", "0::/system.slice/unproxy.service\n"
	promise := func(target string, s Status) Finding {
		return finding(TOAPromise, target, s, "as the gateway sees it").with("do this")
	}
	for _, tt := range []struct {
		name     string
		gateway  string // its cgroup, if a gateway is running
		programs error  // of the doctor's cgroup
		running  *Running
		want     []string
		detail   string // of the first finding
	}{
		{"no gateway", "", unattached, nil, []string{"toa_attached TCP option skip", "toa_promise 127.0.0.1:22 skip"},
			"no program is attached to the cgroup of this process, /user.slice/session-1.scope, and no running gateway was found"},
		{"no gateway, attached here", "", nil, nil, nil, ""},
		{"elsewhere", service, unattached, nil, []string{
			"toa_attached TCP option skip; sh -c 'echo $$ >/sys/fs/cgroup/system.slice/unproxy.service/cgroup.procs && exec unproxy doctor \"$@\"' doctor ...",
			"toa_promise 127.0.0.1:22 skip"},
			"this process is in the cgroup /user.slice/session-1.scope, the gateway (process 18) in /system.slice/unproxy.service"},
		{"elsewhere, attached here", service, nil, nil, []string{
			"toa_attached TCP option skip; sh -c 'echo $$ >/sys/fs/cgroup/system.slice/unproxy.service/cgroup.procs && exec unproxy doctor \"$@\"' doctor ...",
			"toa_promise 127.0.0.1:22 skip"}, ""},
		{"here", shell, unattached, nil, []string{"toa_attached TCP option fail; unproxy toa attach --gateway --cgroup /user.slice/session-1.scope"}, ""},
		{"the gateway works", service, unattached, &Running{18, []Finding{promise("127.0.0.1:22", OK)}}, nil, ""},
		{"the gateway fails", service, nil, &Running{18, []Finding{promise("127.0.0.1:22", Fail)}},
			[]string{"toa_promise 127.0.0.1:22 fail; do this"}, "the running gateway, process 18: as the gateway sees it"},
		{"the gateway has another backend", service, unattached, &Running{18, []Finding{promise("127.0.0.1:23", OK)}},
			[]string{"toa_promise 127.0.0.1:22 skip"}, "has no such backend"},
		{"the gateway has tested nothing", service, unattached, &Running{PID: 18}, []string{
			"toa_attached TCP option skip; sh -c 'echo $$ >/sys/fs/cgroup/system.slice/unproxy.service/cgroup.procs && exec unproxy doctor \"$@\"' doctor ...",
			"toa_promise 127.0.0.1:22 skip"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			w.offers = map[string]error{}
			if w.programsErr = tt.programs; tt.programs != nil {
				w.offers["127.0.0.1:22"] = tt.programs
			}
			w.files["proc/self/cgroup"], w.files["proc/18/cgroup"] = shell, tt.gateway
			c, warnings := configFor(t, sshTOA)
			report := Run(context.Background(), w.host(), Subject{Config: c, Warnings: warnings, Descriptors: 20000, Running: tt.running})
			if got := report.lines(false); !slices.Equal(got, tt.want) {
				t.Errorf("%q\nwant\n%q", got, tt.want)
			}
			i := slices.IndexFunc(report.Findings, func(f Finding) bool { return f.Status != OK })
			if i >= 0 && !strings.Contains(report.Findings[i].Detail, tt.detail) {
				t.Errorf("%q, want %q", report.Findings[i].Detail, tt.detail)
			}
		})
	}
}

// An offer comes from the configured address of the backend's family.
func TestOffer(t *testing.T) {
	w := healthy()
	w.run(t, "--forward :2222=[::1]:22 --transparent toa --local close --toa-source 10.9.0.7 --toa-source 2001:db8::7 --mark 5")
	i := slices.IndexFunc(w.attempts, func(a Attempt) bool { return a.Client.IsValid() })
	if i < 0 {
		t.Fatalf("no offer in %+v", w.attempts)
	}
	a := w.attempts[i]
	if a.Own.String() != "2001:db8::7" || !a.Client.Addr().Is6() || a.Mark != 5 || a.Format != toa.Negotiated {
		t.Errorf("%+v", a)
	}
}

// The self-test follows the promises, and so does readiness.
func TestWatchPromises(t *testing.T) {
	const at = "127.0.0.1:22"
	w := healthy()
	w.offers = map[string]error{}
	watch, events := watched(t, w, sshTOA)
	for i, r := range []struct {
		name   string
		change func()
		events []string
		reason []string
	}{
		{"promised", func() {}, nil, nil},
		{"no longer", func() { w.offers[at] = errUnpromised },
			[]string{"broken " + at + " unproxy toa attach --from 10.9.0.1 --port 22"}, []string{readiness.TOA}},
		{"still", func() {}, nil, []string{readiness.TOA}},
		{"the backend is down: inconclusive", func() { w.plain[at] = refusal() }, nil, []string{readiness.TOA}},
		{"promised again", func() { delete(w.plain, at); delete(w.offers, at) }, []string{"works " + at}, nil},
		{"detached here", func() { w.programsErr = unix.ENOPROTOOPT },
			[]string{"broken " + at + " unproxy toa attach --gateway --cgroup self"}, []string{readiness.TOA}},
	} {
		r.change()
		*events = nil
		watch.round(context.Background(), true)
		var words []string
		for _, reason := range reasons(watch) {
			words = append(words, reason.Word)
		}
		if !slices.Equal(*events, r.events) || !slices.Equal(words, r.reason) {
			t.Errorf("round %d, %s: events %q, reasons %q; want %q, %q", i, r.name, *events, words, r.events, r.reason)
		}
	}
	if got := watch.Hint(ap(at).Addr()); strings.Contains(got, "toa") {
		t.Errorf("the hint of a return path is %q", got)
	}
}

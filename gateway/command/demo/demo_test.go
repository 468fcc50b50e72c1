package demo

import (
	"net/netip"
	"strings"
	"testing"
)

// TestExpectation checks that the demo can fail: each row changes one part of an
// expected outcome.
func TestExpectation(t *testing.T) {
	const seen = "203.0.113.9:40001"
	good := func() *outcome {
		return &outcome{
			own:   netip.MustParseAddrPort("127.0.0.1:5000"),
			reply: "220 you are " + seen + "\r\n",
			visit: &visit{netip.MustParseAddrPort(seen), []byte(hello)},
			line:  logLine{"outcome": "ok", "client": seen, "peer": "127.0.0.1:5000"},
		}
	}
	want := expectation{seen: seen, payload: hello, logged: [][2]string{{"outcome", "ok"}, {"client", seen}, {"peer", thePeer}}}
	if differences := want.check(good()); len(differences) > 0 {
		t.Fatalf("an outcome as expected differs: %q", differences)
	}
	for name, change := range map[string]func(*outcome){
		"the backend saw":             func(o *outcome) { o.visit.peer = netip.MustParseAddrPort("203.0.113.9:40002") },
		"the payload":                 func(o *outcome) { o.visit.payload = []byte("HELO") },
		"the greeting of the backend": func(o *outcome) { o.reply = "" },
		"logged client":               func(o *outcome) { delete(o.line, "client") },
		"logged peer":                 func(o *outcome) { o.line["peer"] = seen },
		"logged outcome":              func(o *outcome) { o.line["outcome"] = "reset" },
	} {
		o := good()
		change(o)
		if differences := want.check(o); !strings.Contains(strings.Join(differences, "\n"), name) {
			t.Errorf("%s was changed, and the demo reports %q", name, differences)
		}
	}
	o := good()
	o.visit = nil
	if differences := want.check(o); len(differences) == 0 {
		t.Error("the backend was not reached, and the demo reports nothing")
	}
	refused := expectation{logged: [][2]string{{"outcome", "ok"}}}
	if differences := refused.check(good()); len(differences) == 0 {
		t.Error("the backend was reached by a connection that must be refused, and the demo reports nothing")
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := newScreen(&b) // no terminal: no colours
	s.result([...]string{"one two three four five six seven eight nine ten", "seen", "logged"}, []string{"something differs"})
	want := "NO  one two three four five six seven      seen                         logged\n" +
		"    eight nine ten\n" +
		"      something differs\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

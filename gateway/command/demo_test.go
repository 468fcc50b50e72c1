package command

import (
	"net/netip"
	"strings"
	"testing"
)

// TestExpectation shows that the demo can fail: each row spoils one thing that
// came out of a scene that otherwise went well.
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
	if wrong := want.check(good()); len(wrong) > 0 {
		t.Fatalf("a scene that went well is wrong: %q", wrong)
	}
	for name, spoil := range map[string]func(*outcome){
		"the old server saw":          func(o *outcome) { o.visit.peer = netip.MustParseAddrPort("203.0.113.9:40002") },
		"the payload":                 func(o *outcome) { o.visit.payload = []byte("HELO") },
		"the greeting that came back": func(o *outcome) { o.reply = "" },
		"logged client":               func(o *outcome) { delete(o.line, "client") },
		"logged peer":                 func(o *outcome) { o.line["peer"] = seen },
		"logged outcome":              func(o *outcome) { o.line["outcome"] = "reset" },
	} {
		o := good()
		spoil(o)
		if wrong := want.check(o); !strings.Contains(strings.Join(wrong, "\n"), name) {
			t.Errorf("%s was spoilt, and the demo says %q", name, wrong)
		}
	}
	o := good()
	o.visit = nil
	if wrong := want.check(o); len(wrong) == 0 {
		t.Error("the old server was not reached, and the demo says nothing")
	}
	refused := expectation{logged: [][2]string{{"outcome", "ok"}}}
	if wrong := refused.check(good()); len(wrong) == 0 {
		t.Error("the old server was reached by what ought to be refused, and the demo says nothing")
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := newScreen(&b) // no terminal: no colours
	s.result("one two three four five six seven eight nine ten", "seen", "logged", []string{"something is wrong"})
	want := "NO  one two three four five six seven      seen                         logged\n" +
		"    eight nine ten\n" +
		"      something is wrong\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

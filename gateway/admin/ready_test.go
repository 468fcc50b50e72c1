package admin

import (
	"encoding/json"
	"strings"
	"testing"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// several returns an endpoint of five forwards, of which two are listed together.
func several() (*Server, *readiness.State) {
	ports := func(names ...string) (all []forward.Listener) {
		for _, n := range names {
			all = append(all, forward.Listener{Name: n})
		}
		return all
	}
	c := quiet()
	c.Gateway = &config.Config{Forwards: []*forward.Forward{
		{Listeners: ports(":2222")},
		{Name: "mail", Listeners: ports(":25")},
		{Listeners: ports("10.0.0.1:3000", "10.0.0.1:3001", "10.0.0.1:3002")},
		{Listeners: ports("udp://:53"), Datagrams: true},
		{Name: "mail", Listeners: ports("unix:/run/in.sock")},
	}}
	return newServer(c, nearby), c.Readiness
}

// What is broken, degraded or not, for each question.
func TestReadyzOfForwards(t *testing.T) {
	broken := func(all ...int) (problems []readiness.Problem) {
		for _, i := range all {
			problems = append(problems, readiness.Problem{Forward: i, Detail: "lost"})
		}
		return problems
	}
	degraded := []readiness.Problem{{Forward: 1, Detail: "one of two", Serves: true}}
	const names = "unknown forward \"%s\"; known: :2222, mail, 10.0.0.1:3000-3002, udp://:53"
	unknown := func(name string) string { return strings.ReplaceAll(names, "%s", name) }
	for _, tt := range []struct {
		name     string
		problems []readiness.Problem
		word     string // of the gateway
		target   string
		code     int
		degraded string // the forwards; for other codes the error
	}{
		{"nothing", nil, "", "", 200, ""},
		{"nothing, all", nil, "", "?all=1", 200, ""},
		{"nothing, one", nil, "", "?forward=:2222", 200, ""},
		{"nothing, by its key", nil, "", "?forward=mail", 200, ""},
		{"nothing, one with a key, by its listener", nil, "", "?forward=:25", 200, ""},
		{"nothing, a range", nil, "", "?forward=10.0.0.1:3000-3002", 200, ""},
		{"nothing, a port of a range", nil, "", "?forward=10.0.0.1:3001", 200, ""},
		{"nothing, UDP", nil, "", "?forward=udp://:53", 200, ""},

		{"one of five", broken(0), "", "", 200, ":2222"},
		{"one of five, itself", broken(0), "", "?forward=:2222", 503, ":2222"},
		{"one of five, escaped", broken(0), "", "?forward=%3A2222", 503, ":2222"},
		{"one of five, another", broken(0), "", "?forward=mail", 200, ""},
		{"one of five, all", broken(0), "", "?all=1", 503, ":2222"},
		{"one of five, not all", broken(0), "", "?all=0", 200, ":2222"},
		{"a range, by a port", broken(2), "", "?forward=10.0.0.1:3001", 503, "10.0.0.1:3000"},
		{"one of two with the name", broken(4), "", "?forward=mail", 503, "mail"},
		{"one of two with the name, by listener", broken(4), "", "?forward=:25", 200, ""},
		{"four of five", broken(0, 1, 2, 4), "", "", 200, ":2222 mail 10.0.0.1:3000 mail"},
		{"five of five", broken(0, 1, 2, 3, 4), "", "", 503, ":2222 mail 10.0.0.1:3000 udp://:53 mail"},

		{"a degraded one", degraded, "", "", 200, "mail"},
		{"a degraded one, itself", degraded, "", "?forward=mail", 200, "mail"},
		{"a degraded one, all", degraded, "", "?all=1", 503, "mail"},
		{"a degraded one, all of itself", degraded, "", "?forward=mail&all=1", 503, "mail"},
		{"a degraded one, all of another", degraded, "", "?forward=:2222&all=1", 200, ""},

		{"starting", nil, readiness.Starting, "", 503, ""},
		{"draining, one", broken(0), readiness.Draining, "?forward=mail", 503, ""},
		{"descriptors, all", nil, readiness.Descriptors, "?all=1", 503, ""},

		{"unknown", nil, "", "?forward=:2223", 404, unknown(":2223")},
		{"unknown while draining", nil, readiness.Draining, "?forward=2222", 404, unknown("2222")},
		{"part of a name", nil, "", "?forward=:222", 404, unknown(":222")},
		{"empty", nil, "", "?forward=", 400, "forward= has no name"},
		{"twice", nil, "", "?forward=mail&forward=:2222", 400, `parameter "forward" appears 2 times`},
		{"misspelled", nil, "", "?forwards=mail", 400, `unknown parameter "forwards"; use forward, all`},
		{"neither 0 nor 1", nil, "", "?all=yes", 400, `all="yes" is neither 0 nor 1`},
		{"not encoded", nil, "", "?forward=%zz", 400, `invalid URL escape "%zz"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, state := several()
			state.SetProblems(readiness.ReturnPath, tt.problems)
			if tt.word != "" {
				state.Set(tt.word, "")
			}
			w := ask(s, "GET", "/readyz"+tt.target)
			var got struct {
				Readiness
				errorAnswer
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != tt.code {
				t.Fatalf("%d %s, %v; want %d", w.Code, w.Body, err, tt.code)
			}
			if tt.code == 400 || tt.code == 404 {
				if got.Error != tt.degraded {
					t.Errorf("error %q, want %q", got.Error, tt.degraded)
				}
				return
			}
			var words []string
			for _, f := range got.Degraded {
				words = append(words, f.Forward)
				if len(f.Reasons) != 1 || f.Reasons[0].Word != readiness.ReturnPath {
					t.Errorf("reasons %+v", f.Reasons)
				}
			}
			if strings.Join(words, " ") != tt.degraded || got.Ready != (tt.code == 200) || got.Ready != (len(got.Reasons) == 0) {
				t.Errorf("%s; want degraded %q", w.Body, tt.degraded)
			}
		})
	}
}

// Status and metrics say the same about each forward as /readyz. Forwards with one name
// have one metric, which is 1 if both are ready.
func TestReadinessElsewhere(t *testing.T) {
	for _, tt := range []struct {
		broken int
		word   string
		ready  [3]bool
	}{
		{-1, "", [3]bool{true, true, true}},
		{0, "", [3]bool{false, true, true}},
		{1, "", [3]bool{true, false, true}},
		{2, "", [3]bool{true, true, false}},
		{0, readiness.Draining, [3]bool{}},
	} {
		s, _ := busy()
		if tt.broken >= 0 {
			s.config.Readiness.SetProblems(readiness.ReturnPath, []readiness.Problem{{Forward: tt.broken, Detail: "lost"}})
		}
		if tt.word != "" {
			s.config.Readiness.Set(tt.word, "")
		}
		var status Status
		if err := json.Unmarshal(ask(s, "GET", "/status.json").Body.Bytes(), &status); err != nil {
			t.Fatal(err)
		}
		if status.Ready != (tt.word == "") || status.Ready != (len(status.Reasons) == 0) {
			t.Errorf("%+v: ready %v, reasons %v", tt, status.Ready, status.Reasons)
		}
		for i, f := range status.Forwards {
			if f.Ready != tt.ready[i] || (len(f.Reasons) > 0) != (i == tt.broken) {
				t.Errorf("%+v: forward %d is ready %v, reasons %v", tt, i, f.Ready, f.Reasons)
			}
		}
		_, text := scrape(s)
		digit := map[bool]string{true: "1", false: "0"}
		for name, ready := range map[string]bool{":8443": tt.ready[0], "127.0.0.1:0": tt.ready[1] && tt.ready[2]} {
			if line := `unproxy_forward_ready{forward="` + name + `"} ` + digit[ready]; !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("%+v: no line %s", tt, line)
			}
		}
		if line := "unproxy_ready " + digit[tt.word == ""]; !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%+v: no line %s", tt, line)
		}
	}
}

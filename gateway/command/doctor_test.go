package command

import (
	"strings"
	"testing"

	"unproxy/gateway/doctor"
)

// The lines below the findings can be pasted into a shell: each command appears
// once, and a command of several lines is complete.
func TestPrintReport(t *testing.T) {
	report := doctor.Report{Findings: []doctor.Finding{
		{Code: doctor.NetRaw, Component: "process", Target: "capabilities", Status: doctor.OK, Detail: "it is\nthere"},
		{Code: doctor.RulesMissing, Component: "return path", Target: "a", Status: doctor.Fail, Detail: "missing",
			Hint: []string{"ip rule add a", "nft -f - <<'EOF'\ntable inet t {\n}\nEOF"}},
		{Code: doctor.RulesMissing, Component: "return path", Target: "b", Status: doctor.Fail, Detail: "missing", Hint: []string{"ip rule add a", "ip rule add b"}},
		{Code: doctor.RulesMissing, Component: "return path", Target: "c", Status: doctor.Fail, Detail: "missing", Hint: []string{"ip rule add b"}},
		{Code: doctor.Backlog, Component: "host", Target: "d", Status: doctor.Warn, Detail: "short"},
		{Code: doctor.ReturnPath, Component: "return path", Target: "e", Status: doctor.Skip, Detail: "dark"},
	}}
	const want = `COMPONENT    TARGET        STATUS  DETAIL
process      capabilities  ok      it is; there
return path  a             FAIL    missing
    ip rule add a
    nft -f - <<'EOF'
    table inet t {
    }
    EOF
return path  b             FAIL    missing
    ip rule add b
return path  c             FAIL    missing
    # see above
host         d             warn    short
return path  e             skip    dark
6 checks: 1 ok, 1 with a warning, 1 skipped, 3 failed
`
	var out strings.Builder
	if err := printReport(&out, report, false); err != nil || out.String() != want {
		t.Errorf("%v, printed\n%swant\n%s", err, out.String(), want)
	}
	out.Reset()
	if err := printReport(&out, report, true); err != nil || !strings.Contains(out.String(), "\n    # backlog: "+doctor.Backlog.Meaning()+"\n") {
		t.Errorf("%v, with --verbose printed\n%s", err, out.String())
	}
	if got := statusWord(doctor.Fail, true); got != "\x1b[1;31mFAIL  \x1b[0m" {
		t.Errorf("on a terminal a failure is %q", got)
	}
}

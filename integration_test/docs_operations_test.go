package integration_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/readiness"
	"unproxy/integration_test/lab"
)

// docs/operations.md has a heading for each request that the sources of the admin
// endpoint register.
func TestOperationsRequests(t *testing.T) {
	var registered []string
	for _, file := range []string{"server.go", "probe.go", "control.go", "bans.go"} {
		source := string(readFile(t, "../gateway/admin/"+file))
		registered = append(registered, names(source, `mux\.Handle(?:Func)?\("((?:GET|POST|DELETE) [^"]+)"`)...)
	}
	for i, request := range registered {
		request = strings.ReplaceAll(strings.TrimPrefix(request, "GET "), "{id}", "ID")
		if strings.Contains(request, "/debug/pprof/") {
			request = "/debug/pprof/"
		}
		registered[i] = request
	}
	slices.Sort(registered)
	documented := names(string(readFile(t, "../docs/operations.md")), `(?m)^### ((?:[A-Z]+ )?/\S+)$`)
	if registered = slices.Compact(registered); len(registered) < 9 || !slices.Equal(documented, registered) {
		t.Errorf("docs/operations.md has\n%q\nand the admin endpoint\n%q", documented, registered)
	}
}

// Its table of the reasons in /readyz has those of the program, in the same order.
func TestOperationsReadiness(t *testing.T) {
	_, table, _ := strings.Cut(string(readFile(t, "../docs/operations.md")), "### /readyz")
	table, _, _ = strings.Cut(table, "\n### ")
	var state readiness.State
	for _, word := range names(table, "(?m)^\\| `([a-z_]+)` \\|") {
		state.Set(word, "")
	}
	want := []string{readiness.Starting, readiness.Draining, readiness.Listeners, readiness.Descriptors,
		readiness.Connections, readiness.Buffers, readiness.ReturnPath, readiness.TOA, readiness.Backends}
	var got []string
	for _, r := range state.Report(0).Reasons {
		got = append(got, r.Word)
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/operations.md has the reasons %q, want %q", got, want)
	}
}

// The flags and files that the documents name exist.
func TestDocumentedFlagsAndUnits(t *testing.T) {
	known := []string{"--cap-add", "--proxy-header", "--peer", "--section", "--mode", "--json", "--from", "--chart", "--programs"} // flags of other programs and of scripts/bench
	for _, command := range [][]string{{"--help"}, {"doctor", "--help"}, {"probe", "--help"}, {"status", "--help"},
		{"check", "--help"},
		{"trust", "explain", "--help"}, {"decode", "--help"}, {"healthcheck", "--help"},
		{"routes", "print", "--help"}, {"routes", "remove", "--help"}, {"toa", "attach", "--help"},
		{"ban", "--help"}, {"unban", "--help"}, {"bans", "--help"}, {"clients", "explain", "--help"}} {
		help, code := lab.RunGateway(t, command...)
		if code != 0 {
			t.Fatalf("%q: exit code %d", command, code)
		}
		known = append(known, names(help, `(--[a-z][a-z0-9-]+)`)...)
	}
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil || len(documents) < 8 {
		t.Fatalf("documents %q, %v", documents, err)
	}
	for _, document := range documents {
		text := string(readFile(t, document))
		for _, flag := range names(text, "(?:`|unproxy [^\\n`]*)(--[a-z][a-z0-9-]+)") {
			if !slices.Contains(known, flag) {
				t.Errorf("%s names the flag %s, which does not exist", document, flag)
			}
		}
		for _, unit := range names(text, "(scripts/[a-z/-]+\\.[a-z]+)") {
			if _, err := os.Stat(filepath.Join("..", unit)); err != nil {
				t.Errorf("%s names %s: %v", document, unit, err)
			}
		}
	}
	for _, unit := range names(string(readFile(t, "../docs/operations.md")),
		"(?m)^\\| `([a-z-]+\\.(?:service|socket|conf))` \\|") {
		if _, err := os.Stat(filepath.Join("../scripts/systemd", unit)); err != nil {
			t.Error(err)
		}
	}
}

// The example of the service's settings has no fault, and as many forwards as the
// documentation says.
func TestExampleOfSettings(t *testing.T) {
	out, code := lab.RunGateway(t, "check", "--strict", "--env-file", "../docs/examples/unproxy.env")
	if code != 0 || !strings.Contains(out, "ok: 50 forwards, 0 warnings") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

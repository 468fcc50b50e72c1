package integration_test

import (
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// guides returns the pages that say how to set something up.
func guides(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../docs/load-balancers/*.md", "../docs/backends/*.md", "../docs/examples/*.md",
		"../docs/examples/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 32 {
		t.Fatalf("found only %q", all)
	}
	return all
}

// Each guide ends with the tests that run it, which exist, or says what is not run and why.
func TestGuidesAreRun(t *testing.T) {
	var existing []string
	for _, pattern := range []string{"*_test.go", "packages/*_test.go", "gopeers/*_test.go", "../gateway/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			existing = append(existing, names(string(readFile(t, file)), `(?m)^func (Test[A-Za-z0-9]+)\(`)...)
		}
	}
	for _, guide := range guides(t) {
		_, section, found := strings.Cut(string(readFile(t, guide)), "\n## Tests\n")
		tests := names(section, "`(Test[A-Za-z0-9]+)`")
		if !found || len(tests) == 0 && !strings.Contains(section, "Not run: ") {
			t.Errorf("%s names neither a test nor a reason", guide)
		}
		for _, name := range tests {
			if !slices.Contains(existing, name) {
				t.Errorf("%s names %s, which does not exist", guide, name)
			}
		}
	}
}

// The commands that start a gateway in the guides have flags that it accepts.
func TestGuidesHaveValidFlags(t *testing.T) {
	command := regexp.MustCompile(`(?m)^unproxy (--forward (?:.*\\\n)*.*)$`)
	var found int
	for _, guide := range guides(t) {
		for _, flags := range command.FindAllStringSubmatch(string(readFile(t, guide)), -1) {
			found++
			output, code := lab.Run(t, lab.Command{Name: "sh", Args: []string{"-c", lab.Binary(t) + " check " + flags[1]}})
			if code != 0 {
				t.Errorf("%s: check %s: exit code %d: %s", guide, flags[1], code, output)
			}
		}
	}
	if found < 10 {
		t.Errorf("found only %d commands", found)
	}
}

// A health check that begins with a header reaches the health endpoint through a second forward; at the
// endpoint itself it is no request:
//
//	load balancer ──header, GET /readyz?forward=──▶ gateway :9182 ──▶ the same gateway's --health :9181
func TestHealthEndpointBehindHeaders(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g := lab.StartGateway(t, "--forward", ":2222=127.0.0.1:3000", "--forward", ":9182=127.0.0.1:9181",
			"--health", "127.0.0.1:9181", "--backend-check", "100ms", "--trust", "127.0.0.1")
		request := []byte("GET /readyz?forward=:2222 HTTP/1.0\r\n\r\n")
		ask := func(address string, header []byte) string {
			c := lab.Send(t, address, append(slices.Clone(header), request...))
			defer c.Close()
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			return string(answer)
		}
		headers := [][]byte{lab.Local(), lab.V1(client4, dest4), lab.V2(client6, dest6)}
		want := func(status string) {
			t.Helper()
			await.Until(t, "/readyz behind a header answers "+status, func() bool {
				return !slices.ContainsFunc(headers, func(h []byte) bool {
					return !strings.HasPrefix(ask("127.0.0.1:9182", h), "HTTP/1.0 "+status)
				})
			})
		}
		want("503")
		lab.Listen(t, "127.0.0.1:3000")
		want("200")
		if answer := ask("127.0.0.1:9181", lab.V1(client4, dest4)); !strings.Contains(answer, " 400 ") {
			t.Errorf("a header at the endpoint is answered by %q", answer)
		}
		g.NextConnection(t).Expect(t, "forward", ":9182", "phase", "relay")
	})
}

// The guide of each server that the tests start has the line that the test found in the server's log.
func TestBackendGuidesHaveTheLogLine(t *testing.T) {
	pages := map[string]string{"Postfix": "postfix", "Dovecot": "dovecot", "PostgreSQL": "postgresql", "MariaDB": "mysql",
		"vsftpd": "vsftpd", "slapd": "openldap", "rsyslog": "syslog"}
	for _, b := range backends() {
		page, exists := pages[b.name]
		if !exists {
			continue
		}
		text := string(readFile(t, "../docs/backends/"+page+".md"))
		if want := aboutClient(b.seen, client4); !strings.Contains(text, want) {
			t.Errorf("docs/backends/%s.md does not have %q", page, want)
		}
	}
}

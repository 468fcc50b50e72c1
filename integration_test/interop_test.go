package integration_test

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

var update = flag.Bool("update", false, "write docs/interop.md, with the versions of the packages that are installed")

const interopPage = "../docs/interop.md"

// docs/interop.md has the rows of the tables of tests, with versions that the page need not share with this
// machine. With -update it is written, but for the section on senders in Go, which scripts/interop writes.
func TestInteropPage(t *testing.T) {
	_, inGo, _ := strings.Cut(string(readFile(t, interopPage)), "\n## Senders in Go\n")
	inGo, _, found := strings.Cut(inGo, "\n## Servers\n")
	if !found {
		t.Fatalf("%s has no section on senders in Go", interopPage)
	}
	page := interopTable(t, inGo)
	if *update {
		if err := os.WriteFile(interopPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	version := regexp.MustCompile(`(?m)^(\| [^|]+ \|) [^|]+ \|`)
	without := func(text string) string { return version.ReplaceAllString(text, "$1 |") }
	if got := string(readFile(t, interopPage)); without(got) != without(page) {
		t.Errorf("%s is\n%s\nwant\n%s\ngo test ./integration_test -run TestInteropPage -update writes it", interopPage, got, page)
	}
}

func interopTable(t *testing.T, inGo string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# Interoperability

The tests run these programs of Debian 12. The page is written by ` + "`TestInteropPage`" + ` from their tables;
the versions are those that it was last run with.

## Senders

A client exchanges data through the sender and the gateway with a server. The gateway must know the client and the
destination. ` + "`TestInteropSenders`" + `:

| sender | version | header |
|---|---|---|
`)
	for _, s := range senders() {
		b.WriteString("| " + s.name + " | " + sourceVersion(t, s.source) + " | version " + s.version + " |\n")
	}
	b.WriteString(`
HAProxy, nginx's stream module, dnsdist and curl have tests of their own in ` + "`integration_test/senders_test.go`" + ` and
` + "`udp_dns_test.go`" + `, where kdig sends over UDP. Debian 12's sslh sends no header.

## Senders in Go
` + inGo + `
## Servers

The gateway is in transparent mode on the server's host. The server must serve a client over IPv4 and one over IPv6, and
its own log must have their addresses. ` + "`TestInteropBackends`" + `:

| server | version | its log |
|---|---|---|
`)
	for _, s := range backends() {
		line := strings.ReplaceAll(aboutClient(s.seen, client4), "\t", " ")
		b.WriteString("| " + s.name + " | " + packageVersion(t, s.debian) + " | `" + strings.TrimSpace(line) + "` |\n")
	}
	b.WriteString(`
OpenSSH, nginx, Redis and dnsmasq have tests of their own in ` + "`integration_test/transparent_servers_test.go`" + ` and
` + "`udp_dns_test.go`" + `.
`)
	return b.String()
}

// sourceVersion returns the version of an installed Debian package, or of a module that the tests use, whose
// name has slashes.
func sourceVersion(t *testing.T, name string) string {
	t.Helper()
	if strings.Contains(name, "/") {
		return strings.TrimPrefix(lab.Output(t, "go", "list", "-m", "-f", "{{.Version}}", name), "v")
	}
	return packageVersion(t, name)
}

// packageVersion returns the upstream version of an installed Debian package.
func packageVersion(t *testing.T, name string) string {
	t.Helper()
	output, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
	if err != nil {
		return "not installed"
	}
	version := string(output)
	if _, after, found := strings.Cut(version, ":"); found {
		version = after
	}
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	return version
}

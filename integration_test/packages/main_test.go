// Package packages_test builds what scripts/package builds, installs it as a user would,
// and sends traffic through it. Everything stays in namespaces of the tests.
package packages_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// prepared is the variable with the directory of what several tests use, and use in
// namespaces, where the test binary runs again.
const prepared = "UNPROXY_TEST_PREPARED"

func run(m *testing.M) int {
	if os.Getenv(prepared) == "" {
		dir, err := os.MkdirTemp("", "unproxy-packages-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Setenv(prepared, dir)
	}
	return lab.Main(m)
}

// Addresses for headers, from the documentation networks.
var (
	client4 = netip.MustParseAddrPort("192.0.2.9:4711")
	dest4   = netip.MustParseAddrPort("198.51.100.1:443")
)

func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

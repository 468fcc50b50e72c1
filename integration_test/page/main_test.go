// Package page_test shows the status page in a real browser, Chromium, driven by
// its debugging protocol. It is a package of its own because the protocol is
// large to compile and link. Everything stays in network namespaces that the
// tests make themselves.
package page_test

import (
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

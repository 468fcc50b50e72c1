// Package page_test shows the status page in a real browser, Chromium, driven by
// its debugging protocol. It is a module of its own, so that the program's go.mod
// names no browser. Everything stays in network namespaces that the
// tests make themselves.
package page_test

import (
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

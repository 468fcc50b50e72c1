// Package page_test tests the status page in a real browser, Chromium, by its debugging
// protocol. It is a separate package because the protocol takes long to compile and link.
// All traffic stays in network namespaces of the tests.
package page_test

import (
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Package integration_test tests the gateway between real load balancers and real
// servers. All traffic stays on loopback and in network namespaces of the tests.
package integration_test

import (
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Package integration_test shows the gateway at work between real load
// balancers and real servers. Everything stays on loopback and in network
// namespaces that the tests make themselves.
package integration_test

import (
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// Package integration_test tests the gateway between real load balancers and real
// servers. All traffic stays on loopback and in network namespaces of the tests.
package integration_test

import (
	"fmt"
	"os"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == soakBackendWord {
		if err := playSoakBackend(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(lab.Main(m))
}

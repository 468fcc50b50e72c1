package integration_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// transparentGateway starts a transparent gateway in front of backend and sets up the
// return path.
func transparentGateway(t *testing.T, backend string, flags ...string) *lab.Gateway {
	t.Helper()
	returnPath(t, backend)
	return lab.StartGateway(t, withoutSelfTest(transparentFlags(backend, flags...))...)
}

// withoutSelfTest is for backends whose connections a test looks at: on a busy host they accept one of
// the self-test before its reset.
func withoutSelfTest(flags []string) []string {
	if slices.Contains(flags, "--self-test-interval") {
		return flags
	}
	return append(flags, "--self-test-interval", "0")
}

func transparentFlags(backend string, flags ...string) []string {
	return append([]string{"--forward", "127.0.0.1:0=" + backend, "--trust", "127.0.0.1", "--transparent", "on"}, flags...)
}

// returnPath makes the kernel route the replies of the backends to the gateway. An
// address of UDP begins with "udp://".
func returnPath(t *testing.T, backends ...string) {
	t.Helper()
	var servers []returnpath.Backend
	for _, b := range backends {
		address, udp := strings.CutPrefix(b, "udp://")
		servers = append(servers, returnpath.Server(netip.MustParseAddrPort(address), udp))
	}
	located, err := routing.Locate(servers)
	if err == nil {
		err = routing.Apply(t.Context(), returnpath.New(located, nil, returnpath.Options{}), func(string) {})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// headerOf returns a version 2 header with the client.
func headerOf(client netip.AddrPort) []byte {
	if client.Addr().Is6() {
		return lab.V2(client, dest6)
	}
	return lab.V2(client, dest4)
}

// anyPort returns a with port 0.
func anyPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

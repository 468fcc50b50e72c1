package integration_test

import (
	"net"
	"net/netip"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// transparentGateway starts a gateway in transparent mode in front of backend,
// whose replies are routed back to it.
func transparentGateway(t *testing.T, backend string, flags ...string) *lab.Gateway {
	t.Helper()
	returnPath(t, backend)
	return lab.StartGateway(t, transparentFlags(backend, flags...)...)
}

func transparentFlags(backend string, flags ...string) []string {
	return append([]string{"--forward", "127.0.0.1:0=" + backend, "--trust", "127.0.0.1", "--transparent", "on"}, flags...)
}

func returnPath(t *testing.T, backend string) {
	t.Helper()
	at := returnpath.Server(netip.MustParseAddrPort(backend), false)
	located, err := routing.Locate([]returnpath.Backend{at})
	if err == nil {
		err = routing.Apply(t.Context(), returnpath.New(located, nil, returnpath.Options{}), func(string) {})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// headerOf returns a header that names client, of version 2.
func headerOf(client netip.AddrPort) []byte {
	if client.Addr().Is6() {
		return lab.V2(client, dest6)
	}
	return lab.V2(client, dest4)
}

// expectClosed fails the test unless c ends, in whatever way, without a byte.
func expectClosed(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if timeout, ok := err.(net.Error); n != 0 || err == nil || ok && timeout.Timeout() {
		t.Errorf("read %d bytes, %v; want the connection closed", n, err)
	}
}

// anyPort returns a with port 0.
func anyPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

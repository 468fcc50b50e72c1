package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// The plan brings datagrams back as well, from every place. The test is the
// gateway here, with a socket of its own.
func TestTopologiesUDP(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				outsider(t)
				h := p.machine(t)
				var backends []returnpath.Backend
				for _, address := range p.backends {
					at := netip.MustParseAddrPort(address)
					go echoDatagrams(h.ListenUDP(t, at))
					backends = append(backends, returnpath.Server(at, true))
				}
				located, err := routing.Locate(backends)
				if err != nil {
					t.Fatal(err)
				}
				plan := returnpath.New(located, nil, returnpath.Options{})
				clients := [2]netip.AddrPort{client4, client6}
				for i, client := range clients {
					plain := netip.AddrPort{}
					await.Until(t, "the backend answers this host", func() bool { return exchange(t, plain, p.backends[i]) })
					if exchange(t, client, p.backends[i]) {
						t.Errorf("%s answered %v without a return path", p.backends[i], client)
					}
				}
				if err := routing.Apply(t.Context(), plan, func(string) {}); err != nil {
					t.Fatal(err)
				}
				for i, client := range clients {
					for _, filter := range []string{"0", "1", "2"} {
						for _, mark := range []string{"0", "1"} {
							reversePath(t, filter, mark)
							await.Until(t, fmt.Sprintf("rp_filter %s, src_valid_mark %s: %s answers %v", filter, mark, p.backends[i], client),
								func() bool { return exchange(t, client, p.backends[i]) })
						}
					}
				}
			})
		})
	}
}

func echoDatagrams(c *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(b[:n], from) // lost without a return path, which is the point
	}
}

// exchange sends a datagram to backend, from client if that is valid, and
// reports whether it comes back soon.
func exchange(t *testing.T, client netip.AddrPort, backend string) bool {
	t.Helper()
	n, err := datagramFrom(t, client, backend, []byte("datagram"))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatal(err)
	}
	return n == len("datagram")
}

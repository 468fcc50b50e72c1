package admin

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"unproxy/gateway/engine"
)

// FuzzQuery: whatever is asked for is answered or refused, and a whole prefix
// matches what is in it.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "client=203.0.113.0/24", "client=::ffff:1.2.3.4", "sort=bytes&limit=1", "limit=-1", "client=fe80::1%25eth0", "a=%zz", "forward=:1&forward=:2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		q, err := parseQuery(values)
		if err != nil {
			return
		}
		if q.limit < 1 || q.limit > mostConnections || q.order == nil {
			t.Fatalf("%q is read as %+v", text, q)
		}
		s := engine.Session{Client: netip.MustParseAddrPort("203.0.113.9:1")}
		q.matches(&s)
		if p, err := netip.ParsePrefix(values.Get("client")); err == nil {
			s.Client = netip.AddrPortFrom(p.Addr(), 1)
			if want := p.Contains(p.Addr()); q.client(s.Client.Addr()) != want {
				t.Errorf("%v matches its own address: %v", p, !want)
			}
		}
	})
}

// FuzzHost: nothing passes for this host but localhost and what is an address
// of loopback when the port is taken off by hand.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"localhost", "localhost:1", "127.0.0.1:80", "[::1]:1", "::1", "127.0.0.1.evil:1", "[::ffff:127.0.0.1]", "localhost:1:2", "[localhost]:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !isThisHost(host) {
			return
		}
		rest := host
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") && (strings.Count(host, ":") == 1 || strings.Contains(host[:i], "]")) {
			rest = host[:i]
		}
		rest = strings.Trim(rest, "[]")
		a, err := netip.ParseAddr(rest)
		if !strings.EqualFold(rest, "localhost") && (err != nil || !a.Unmap().IsLoopback()) {
			t.Errorf("%q passes for this host", host)
		}
	})
}

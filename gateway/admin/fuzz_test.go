package admin

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"unproxy/gateway/engine"
)

// FuzzQuery parses any query without a panic, and checks that the filter of a prefix
// matches the addresses in it.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", "client=203.0.113.0/24", "client=::ffff:1.2.3.4", "sort=bytes&limit=1",
		"limit=-1", "client=fe80::1%25eth0", "a=%zz", "forward=:1&forward=:2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := &http.Request{URL: &url.URL{RawQuery: text}}
		q, err := parseQuery(r)
		if err != nil {
			return
		}
		if q.limit < 1 || q.limit > maxLimit || q.order == nil {
			t.Fatalf("parseQuery(%q) = %+v", text, q)
		}
		s := engine.Session{Client: netip.MustParseAddrPort("203.0.113.9:1")}
		q.matches(&s)
		if p, err := netip.ParsePrefix(r.URL.Query().Get("client")); err == nil {
			s.Client = netip.AddrPortFrom(p.Addr(), 1)
			if want := p.Contains(p.Addr()); q.client(s.Client.Addr()) != want {
				t.Errorf("filter %v matches its own address: %v, want %v", p, !want, want)
			}
		}
	})
}

// FuzzHost checks that only localhost and loopback addresses pass for this host. The
// oracle removes the port by hand.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{
		"localhost", "localhost:1", "127.0.0.1:80", "[::1]:1", "::1",
		"127.0.0.1.evil:1", "[::ffff:127.0.0.1]", "localhost:1:2", "[localhost]:1",
		"::1]", "[::1", "[", "[::1]]", // half a pair of brackets
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !isThisHost(host) {
			return
		}
		rest := withoutPort(host)
		if strings.HasPrefix(rest, "[") {
			rest = strings.Trim(rest, "[]")
		}
		a, err := netip.ParseAddr(rest)
		if !strings.EqualFold(rest, "localhost") && (err != nil || !a.Unmap().IsLoopback()) {
			t.Errorf("%q passes for this host", host)
		}
	})
}

// withoutPort removes a port after a name, an IPv4 address, or a bracketed IPv6
// address.
func withoutPort(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.Contains(host[i:], "]") {
		return host
	}
	if strings.Count(host, ":") > 1 && !strings.Contains(host[:i], "]") {
		return host // an IPv6 address without a port
	}
	return host[:i]
}

package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/forward"
)

// Listeners that cannot both be opened, with what to write instead, and neighbours that can.
func TestClashes(t *testing.T) {
	const others, sockets = " | use different addresses or ports", " | use different addresses, ports or sockets"
	for _, tt := range []struct {
		forwards string
		want     []string
	}{
		{":1=127.0.0.1:9 127.0.0.1:1=127.0.0.1:9", []string{"listeners :1 and 127.0.0.1:1 use the same address and port | write [::]:1 for IPv6 alone"}},
		{"127.0.0.1:1=127.0.0.1:9 :1=127.0.0.1:9", []string{"listeners 127.0.0.1:1 and :1 use the same address and port | write [::]:1 for IPv6 alone"}},
		{"0.0.0.0:1=127.0.0.1:9 127.0.0.1:1=127.0.0.1:9", []string{"listeners 0.0.0.0:1 and 127.0.0.1:1 use the same address and port" + others}},
		{"127.0.0.1:1=127.0.0.1:9 0.0.0.0:1=127.0.0.1:9", []string{"listeners 127.0.0.1:1 and 0.0.0.0:1 use the same address and port" + others}},
		{":1=127.0.0.1:9 [::1]:1=127.0.0.1:9", []string{"listeners :1 and [::1]:1 use the same address and port" + others}},
		{"[::1]:1=127.0.0.1:9 [::1]:1=127.0.0.1:8", []string{"two forwards have the same listener: [::1]:1 to 127.0.0.1:9, and [::1]:1 to 127.0.0.1:8" + sockets}},
		{"systemd:a=127.0.0.1:9 systemd:a=127.0.0.1:8", []string{"two forwards have the same listener: systemd:a to 127.0.0.1:9, and systemd:a to 127.0.0.1:8" + sockets}},
		{"unix:/a=127.0.0.1:9 unix:/a=127.0.0.1:8", []string{"two forwards have the same listener: unix:/a to 127.0.0.1:9, and unix:/a to 127.0.0.1:8" + sockets}},
		{":1-3=127.0.0.1:9 :3-4=127.0.0.1:9 :4-6=127.0.0.1:9", []string{
			"two forwards have the same listener: :3 to 127.0.0.1:9, and :3 to 127.0.0.1:9" + sockets,
			"two forwards have the same listener: :4 to 127.0.0.1:9, and :4 to 127.0.0.1:9" + sockets}},
		{":1-3=127.0.0.1:9 :1-3=127.0.0.1:8", []string{
			"two forwards have the same listener: :1 to 127.0.0.1:9, and :1 to 127.0.0.1:8; 2 more ports have the same problem" + sockets}},

		{"systemd:a=127.0.0.1:9 systemd:b=127.0.0.1:9", nil},
		{"unix:/a=127.0.0.1:9 unix:/b=127.0.0.1:9", nil},
		{"127.0.0.1:1=127.0.0.1:9 127.0.0.2:1=127.0.0.1:9", nil},
		{"0.0.0.0:1=127.0.0.1:9 [::1]:1=127.0.0.1:9", nil},
		{"[::]:1=127.0.0.1:9 127.0.0.1:1=127.0.0.1:9", nil}, // IPv6 alone, then
		{":1=127.0.0.1:9 127.0.0.1:2=127.0.0.1:9", nil},
		{":1=127.0.0.1:9 udp://:1=127.0.0.1:9", nil},
		{":0=127.0.0.1:9 :0=127.0.0.1:9", nil},
	} {
		_, warnings, err := load(strings.Fields(tt.forwards))
		if got := findings(warnings, err); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.forwards, got, tt.want)
		}
	}
}

// The process's own endpoints, with what to write instead.
func TestClashesWithTaken(t *testing.T) {
	const others = " | use different addresses or ports"
	for _, tt := range []struct {
		forward string
		taken   []Taken
		want    []string
	}{
		{"unix:/a=127.0.0.1:9", []Taken{{"--admin", forward.Endpoint{Path: "/a"}}},
			[]string{"listener unix:/a and --admin unix:/a are the same socket | give each a path of its own"}},
		{":1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:1")}},
			[]string{"listener :1 and --admin 127.0.0.1:1 use the same address and port" + others}},
		{":1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:2")}, {"--health", endpoint("[::]:2")}},
			[]string{"--admin 127.0.0.1:2 and --health [::]:2 use the same address and port" + others}},
		{":1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:1")}, {"--health", endpoint("[::1]:1")}}, []string{
			"listener :1 and --admin 127.0.0.1:1 use the same address and port" + others,
			"listener :1 and --health [::1]:1 use the same address and port" + others}},
		{":1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:2")}, {"--health", endpoint("127.0.0.2:2")}}, nil},
		{"udp://:1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:1")}}, nil},
		{"0.0.0.0:1-2=127.0.0.1:9 127.0.0.1:1=127.0.0.1:9", []Taken{{"--admin", endpoint("127.0.0.1:5")}, {"--health", endpoint("127.0.0.1:2")}}, []string{
			"listeners 0.0.0.0:1 and 127.0.0.1:1 use the same address and port" + others,
			"listener 0.0.0.0:2 and --health 127.0.0.1:2 use the same address and port" + others}},
	} {
		_, warnings, err := Load(Source{Forwards: strings.Fields(tt.forward), Settings: Values{"trust": {"10.0.0.0/8"}}, Taken: tt.taken})
		if got := findings(warnings, err); !slices.Equal(got, tt.want) {
			t.Errorf("%s and %v:\n got %q\nwant %q", tt.forward, tt.taken, got, tt.want)
		}
	}
}

// A forward to its own listener is refused as far as that can be seen without the addresses of
// the host: the same address, loopback behind a wildcard, the same socket.
func TestForwardsToItself(t *testing.T) {
	for forward, want := range map[string]bool{
		"127.0.0.1:22=127.0.0.1:22":         true,
		"127.0.0.2:22=127.0.0.2:22":         true,
		"10.0.0.1:22=10.0.0.1:22":           true,
		"[2001:db8::1]:22=[2001:db8::1]:22": true,
		":22=127.0.0.1:22":                  true,
		":22=[::1]:22":                      true,
		"0.0.0.0:22=127.9.9.9:22":           true,
		"127.0.0.1:22=localhost:22":         true,
		"[::1]:22=localhost:22":             true,
		"udp://:22=127.0.0.1:22":            true,
		"unix:/a=unix:/a":                   true,
		":1-3=127.0.0.1:3":                  true,
		"127.0.0.1:22=127.0.0.2:22":         false,
		"127.0.0.1:22=127.0.0.1:23":         false,
		"0.0.0.0:22=10.0.0.1:22":            false, // may be another host
		"0.0.0.0:22=[::1]:22":               false,
		"127.0.0.2:22=localhost:22":         false,
		"127.0.0.1:22=localhost:23":         false,
		"10.0.0.1:22=localhost:22":          false,
		"127.0.0.1:22=db.internal:22":       false,
		"unix:/a=unix:/b":                   false,
		"unix:/a=127.0.0.1:22":              false,
		":22=unix:/a":                       false,
	} {
		_, _, err := load([]string{forward})
		if got := err != nil && strings.Contains(err.Error(), "forwards to itself"); got != want {
			t.Errorf("%s forwards to itself: %v (%v), want %v", forward, got, err, want)
		}
	}
}

// A backend without a port, which only a program can give, is no listener.
func TestBackendWithoutAPort(t *testing.T) {
	l := forward.Listener{Name: ":0", Endpoint: endpoint("127.0.0.1:0")}
	for _, b := range []forward.Backend{{Endpoint: endpoint("127.0.0.1:0")}, {Host: "localhost"}} {
		if leadsBack(l, b) {
			t.Errorf("%v leads back to a listener without a port", b)
		}
	}
}

// What a listener accepts: its address, of a wildcard all of its family, of both families all.
func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		listener, addr string
		want           bool
	}{
		{"127.0.0.1:1=127.0.0.1:9", "127.0.0.1:1", true},
		{"127.0.0.1:1=127.0.0.1:9", "127.0.0.1:2", false},
		{"127.0.0.1:1=127.0.0.1:9", "127.0.0.2:1", false},
		{"127.0.0.1:1=127.0.0.1:9", "[::1]:1", false},
		{"0.0.0.0:1=127.0.0.1:9", "127.0.0.2:1", true},
		{"0.0.0.0:1=127.0.0.1:9", "[::1]:1", false},
		{":1=127.0.0.1:9", "127.0.0.2:1", true},
		{":1=127.0.0.1:9", "[::1]:1", true},
		{":1=127.0.0.1:9", "[::1]:2", false},
		{"unix:/a=127.0.0.1:9", "127.0.0.1:1", false},
	} {
		l := mustLoad(t, tt.listener).Listeners[0]
		if got := covers(l, netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("%s accepts connections to %s: %v, want %v", tt.listener, tt.addr, got, tt.want)
		}
	}
	six := forward.Listener{Endpoint: endpoint("[::]:1")}
	if covers(six, netip.MustParseAddrPort("127.0.0.1:1")) || !covers(six, netip.MustParseAddrPort("[::1]:1")) {
		t.Error("the wildcard of IPv6 alone")
	}
}

// Only another listener of the same port and protocol limits [::]:PORT to IPv6.
func TestSeparateFamilies(t *testing.T) {
	for forwards, want := range map[string]string{
		"[::]:80=127.0.0.1:9 0.0.0.0:80=127.0.0.1:9":              "-",
		"0.0.0.0:80=127.0.0.1:9 [::]:80=127.0.0.1:9":              "-",
		"[::]:80=127.0.0.1:9 10.0.0.1:80=127.0.0.1:9":             "-",
		"udp://[::]:80=127.0.0.1:9 udp://10.0.0.1:80=127.0.0.1:9": "-",
		"[::]:80=127.0.0.1:9 0.0.0.0:81=127.0.0.1:9":              "+",
		"[::]:80=127.0.0.1:9 udp://0.0.0.0:80=127.0.0.1:9":        "+",
		"udp://[::]:80=127.0.0.1:9 0.0.0.0:80=127.0.0.1:9":        "+",
		"[::]:80=127.0.0.1:9 [::1]:81=127.0.0.1:9":                "+",
		"[::]:80=127.0.0.1:9 unix:/a=127.0.0.1:9":                 "+",
		"[::]:0=127.0.0.1:9 0.0.0.0:0=127.0.0.1:9":                "+",
		"[::]:79-81=127.0.0.1:9 0.0.0.0:80=127.0.0.1:9":           "+-+",
	} {
		c, _, err := load(strings.Fields(forwards))
		if err != nil {
			t.Errorf("%s: %v", forwards, err)
			continue
		}
		got := ""
		for _, f := range c.Forwards {
			for _, l := range f.Listeners {
				if l.Endpoint.Addr.Addr() != netip.IPv6Unspecified() {
					continue
				}
				if l.DualStack {
					got += "+"
				} else {
					got += "-"
				}
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s (+ is both families)", forwards, got, want)
		}
	}
}

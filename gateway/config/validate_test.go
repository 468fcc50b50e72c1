package config

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
)

// A fault of every port of a range is one problem: --forward
// :1-65535=127.0.0.1:1-65535 once printed 65 535 of them.
func TestOneProblemForARange(t *testing.T) {
	for _, tt := range []struct {
		name     string
		forwards []string
		want     []string // one problem each
	}{
		{"forwards to itself", []string{":1-65535=127.0.0.1:1-65535"}, []string{"listener :1 forwards to itself; 65534 more ports have the same problem"}},
		{"forwards to itself, UDP", []string{"udp://:1-65535=127.0.0.1:1-65535"}, []string{"listener udp://:1 forwards to itself; 65534 more ports have the same problem"}},
		{"forwards to itself, IPv6", []string{"[::1]:1-9=[::1]:1-9"}, []string{"listener [::1]:1 forwards to itself; 8 more ports have the same problem"}},
		{"forwards to itself by name", []string{":1-9=localhost:1-9"}, []string{"listener :1 forwards to itself; 8 more ports have the same problem"}},
		{"forwards to itself by name and address", []string{":1-9=localhost:1-9,127.0.0.1:1-9"}, []string{"listener :1 forwards to itself; 8 more ports have the same problem"}},
		{"one port forwards to itself", []string{":1-9=127.0.0.1:5"}, []string{"listener :5 forwards to itself"}},
		{"two ranges overlap", []string{":1-100=127.0.0.1:999", ":50-200=127.0.0.1:999"},
			[]string{"two forwards have the same listener: :50 to 127.0.0.1:999, and :50 to 127.0.0.1:999; 50 more ports have the same problem"}},
		{"two ranges overlap by a wildcard", []string{":1-100=127.0.0.1:999", "127.0.0.1:90-91=127.0.0.1:999"},
			[]string{"listeners :90 and 127.0.0.1:90 use the same address and port; 1 more port has the same problem"}},
		{"three ranges overlap", []string{":1-9=127.0.0.1:99", ":1-9=127.0.0.1:98", ":1-9=127.0.0.1:97"},
			[]string{":99, and :1 to", ":99, and :1 to", ":98, and :1 to"}},
		{"two forwards forward to themselves", []string{":1=127.0.0.1:1", ":2=127.0.0.1:2"},
			[]string{"listener :1 forwards to itself", "listener :2 forwards to itself"}},
		{"two forwards of one port", []string{":1=127.0.0.1:3", ":1=127.0.0.1:4"},
			[]string{"two forwards have the same listener: :1 to 127.0.0.1:3, and :1 to 127.0.0.1:4"}},
	} {
		_, _, err := load(tt.forwards)
		got := Leaves(err)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %d problems, the first of them %v; want %d", tt.name, len(got), got[0], len(tt.want))
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(got[i].Error(), want) {
				t.Errorf("%s: %v; want %q", tt.name, got[i], want)
			}
		}
	}
}

func TestOneProblemForARangeWithoutTrust(t *testing.T) {
	_, _, err := Load(Source{Forwards: []string{":1-65535=10.0.0.1:1-65535"}})
	if n := len(Leaves(err)); n != 1 {
		t.Errorf("%d problems of a range without a trust rule; want 1", n)
	}
}

// The longest accepted duration is the longest that the kernel accepts.
func TestKernelBounds(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, tt := range []struct {
		given   string
		options []int
		units   func(*forward.Forward) int
		beyond  string
		over    int // the lowest value that the kernel rejects
	}{
		{"keepalive 32767s", []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL},
			func(f *forward.Forward) int { return int(f.Keepalive.Seconds()) }, "keepalive 12h", 32768},
		{"user-timeout 2147483647ms", []int{unix.TCP_USER_TIMEOUT},
			func(f *forward.Forward) int { return int(f.UserTimeout.Milliseconds()) }, "user-timeout 2147483648ms", -1},
	} {
		f := mustLoad(t, ":1=127.0.0.1:2", tt.given)
		for _, option := range tt.options {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, tt.units(f)); err != nil {
				t.Errorf("--%s: the kernel rejects %d for option %d: %v", tt.given, tt.units(f), option, err)
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, tt.over); err == nil {
				t.Errorf("the kernel accepts %d for option %d: the bound is too low", tt.over, option)
			}
		}
		name, text, _ := strings.Cut(tt.beyond, " ")
		for _, forward := range []string{":1=127.0.0.1:2", ":1=127.0.0.1:2?" + name + "=" + text} {
			given := []string{tt.beyond}
			if strings.Contains(forward, "?") {
				given = nil
			}
			if _, _, err := load([]string{forward}, given...); err == nil || !strings.Contains(err.Error(), "is too long: the maximum is") {
				t.Errorf("%s %v: %v; want it refused", forward, given, err)
			}
		}
	}
}

// Every duration has a maximum, so that adding it to a time cannot overflow.
func TestEveryDurationIsBounded(t *testing.T) {
	checked := 0
	for _, s := range table {
		if s.Argument != "D" {
			continue
		}
		if _, _, err := bind(&s, "2562047h"); err == nil {
			t.Errorf("--%s accepts 292 years", s.Name)
		}
		checked++
	}
	if checked < 10 {
		t.Errorf("only %d durations", checked)
	}
}

// No number exceeds the type of its variable.
func TestEveryNumberIsBounded(t *testing.T) {
	for _, s := range table {
		if !strings.HasPrefix(s.Argument, "N") {
			continue
		}
		for _, text := range []string{"4294967296", "18446744073709551616", "-1"} {
			if _, _, err := bind(&s, text); err == nil {
				t.Errorf("--%s accepts %s", s.Name, text)
			}
		}
	}
}

// A forward cannot use a listener of the process itself; otherwise bind(2) would
// fail at the start.
func TestTaken(t *testing.T) {
	for _, tt := range []struct {
		forward string
		taken   forward.Endpoint
		want    string // "" is no problem
	}{
		{":9180=127.0.0.1:2", endpoint("127.0.0.1:9180"), "listener :9180 and --admin 127.0.0.1:9180 use the same address and port"},
		{"127.0.0.1:9180=127.0.0.1:2", endpoint("127.0.0.1:9180"), "--admin 127.0.0.1:9180"},
		{"10.0.0.1:9180=127.0.0.1:2", endpoint("[::]:9180"), "--admin [::]:9180"},
		{"[::1]:9180=127.0.0.1:2", endpoint("[::]:9180"), "--admin [::]:9180"},
		{":9000-9999=127.0.0.1:2", endpoint("[::1]:9180"), "listener :9180 and --admin"},
		{"unix:/run/a=127.0.0.1:2", forward.Endpoint{Path: "/run/a"}, "listener unix:/run/a and --admin unix:/run/a"},
		{"unix:/run/a=127.0.0.1:2", forward.Endpoint{Path: "/run/./a"}, "listener unix:/run/a and --admin unix:/run/./a"},
		{":1=127.0.0.1:2?tproxy&redirect=:1-65535", endpoint("10.0.0.1:9180"), "also takes the connections to --admin"},

		{"10.0.0.1:9180=127.0.0.1:2", endpoint("127.0.0.1:9180"), ""},
		{"[::1]:9180=127.0.0.1:2", endpoint("127.0.0.1:9180"), ""},
		{"udp://:9180=127.0.0.1:2", endpoint("127.0.0.1:9180"), ""},
		{":0=127.0.0.1:2", endpoint("127.0.0.1:0"), ""},
		{"unix:/run/a=127.0.0.1:2", forward.Endpoint{Path: "/run/b"}, ""},
		{":9180=127.0.0.1:2", forward.Endpoint{}, ""},
		{":9181=127.0.0.1:2", endpoint("127.0.0.1:9180"), ""},
	} {
		values := Values{"trust": {"10.0.0.0/8"}}
		_, _, err := Load(Source{Forwards: []string{tt.forward}, Settings: values, Taken: []Taken{{"--admin", tt.taken}}})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s and --admin %s: %v; want %q", tt.forward, tt.taken, err, tt.want)
		}
	}
}

// Endpoints of the process itself do not share an address either.
func TestTakenTwice(t *testing.T) {
	for _, tt := range []struct {
		admin, health forward.Endpoint
		want          string
	}{
		{endpoint("127.0.0.1:9180"), endpoint("127.0.0.1:9180"), "--admin 127.0.0.1:9180 and --health 127.0.0.1:9180 use the same address and port"},
		{endpoint("127.0.0.1:9180"), endpoint("[::]:9180"), "--admin 127.0.0.1:9180 and --health [::]:9180 use the same address and port"},
		{forward.Endpoint{Path: "/run/a"}, forward.Endpoint{Path: "/run/a"}, "--admin unix:/run/a and --health unix:/run/a are the same socket"},
		{endpoint("127.0.0.1:9180"), endpoint("127.0.0.1:9181"), ""},
		{endpoint("127.0.0.1:9180"), endpoint("10.0.0.1:9180"), ""},
		{endpoint("127.0.0.1:0"), endpoint("127.0.0.1:0"), ""},
		{forward.Endpoint{Path: "/run/a"}, forward.Endpoint{Path: "/run/b"}, ""},
	} {
		_, _, err := Load(Source{Forwards: []string{":1=127.0.0.1:2"}, Settings: Values{"trust": {"10.0.0.0/8"}},
			Taken: []Taken{{"--admin", tt.admin}, {"--health", tt.health}}})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("--admin %s, --health %s: %v; want %q", tt.admin, tt.health, err, tt.want)
		}
	}
}

func endpoint(text string) forward.Endpoint {
	return forward.Endpoint{Addr: netip.MustParseAddrPort(text)}
}

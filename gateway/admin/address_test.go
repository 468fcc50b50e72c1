package admin

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"unproxy/gateway/config"
)

func TestParseAddress(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, tt := range []struct {
		text     string
		insecure bool
		want     Address
		wrong    string // part of the message
		hint     string // part of the hint
	}{
		{text: "127.0.0.1:9180", want: Address{TCP: ap("127.0.0.1:9180")}},
		{text: "127.9.9.9:1", want: Address{TCP: ap("127.9.9.9:1")}}, // all of 127/8 is loopback (RFC 1122, 3.2.1.3)
		{text: "[::1]:9180", want: Address{TCP: ap("[::1]:9180")}},
		{text: "[::ffff:127.0.0.1]:9180", want: Address{TCP: ap("127.0.0.1:9180")}}, // 4-in-6
		{text: "127.0.0.1:0", want: Address{TCP: ap("127.0.0.1:0")}},
		{text: "unix:/run/a.sock", want: Address{Path: "/run/a.sock"}},
		{text: "unix:@unproxy", wrong: "every user of this host", hint: "--admin unix:/run/unproxy/admin.sock"},
		{text: "unix:@unproxy", insecure: true, want: Address{Path: "@unproxy"}},

		{text: "10.0.0.1:9180", wrong: "other hosts", hint: "--admin 127.0.0.1:9180"},
		{text: "10.0.0.1:9180", insecure: true, want: Address{TCP: ap("10.0.0.1:9180")}},
		{text: ":9180", wrong: "other hosts", hint: "--admin-insecure"},
		{text: ":9180", insecure: true, want: Address{TCP: ap("[::]:9180")}},
		{text: "0.0.0.0:9180", wrong: "other hosts", hint: "--admin 127.0.0.1:9180"},
		{text: "[::ffff:10.0.0.1]:9180", wrong: "other hosts", hint: "--admin-insecure"},

		{text: "9180", wrong: "not HOST:PORT", hint: "127.0.0.1:9180"},
		{text: "", wrong: "not HOST:PORT", hint: "127.0.0.1:9180"},
		{text: "127.0.0.1", wrong: "not HOST:PORT", hint: "127.0.0.1:9180"},
		{text: "127.0.0.1:http", wrong: "not HOST:PORT", hint: "127.0.0.1:9180"},
		{text: "127.0.0.1:99999", wrong: "not HOST:PORT", hint: "127.0.0.1:9180"},
		{text: "localhost:80", wrong: "a name instead", hint: "127.0.0.1:80"},
		{text: "admin.internal:80", insecure: true, wrong: "no IP address", hint: "127.0.0.1:80"},
		{text: "::1:9180", wrong: "no IP address", hint: "[::1]:9180"}, // ambiguous: ::1 or ::1:9180
		{text: "[127.0.0.1]:80", wrong: "no IP address", hint: "127.0.0.1:80"},
		{text: "[fe80::1%eth0]:80", insecure: true, wrong: "no IP address", hint: "127.0.0.1:80"},
		{text: "unix:", wrong: "has no path", hint: "unix:/run"},
		{text: "unix:/" + strings.Repeat("x", 107), wrong: "107 bytes", hint: "unix:/run"},
	} {
		got, err := ParseAddress(tt.text, tt.insecure)
		if tt.wrong == "" {
			if err != nil || got != tt.want {
				t.Errorf("%q: %v, %v; want %v", tt.text, got, err, tt.want)
			}
			continue
		}
		var problem *config.Problem
		if !errors.As(err, &problem) {
			t.Errorf("%q: error %v; want a problem with %q", tt.text, err, tt.wrong)
			continue
		}
		if !strings.Contains(problem.Error(), tt.wrong) || !strings.Contains(problem.Hint(), tt.hint) {
			t.Errorf("%q: %+v; want %q and the hint %q", tt.text, problem, tt.wrong, tt.hint)
		}
	}
}

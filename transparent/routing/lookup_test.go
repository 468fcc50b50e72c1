package routing_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/netns"
	"unproxy/transparent/routing"
)

// TestLookup looks up replies after each change of rules and routes.
//
//	lo 127.0.0.1, ::1   veth0 10.9.0.1, fd09::1 ══ veth1 (10.9.0.2 and fd09::2 would be here)
//	                    veth2 10.8.0.1 ══ veth3
func TestLookup(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link add veth0 type veth peer name veth1")
		netns.IP(t, "link add veth2 type veth peer name veth3")
		for _, device := range []string{"veth0", "veth1", "veth2", "veth3"} {
			netns.IP(t, "link set "+device+" up")
		}
		netns.IP(t, "address add 10.9.0.1/24 dev veth0")
		netns.IP(t, "address add 10.8.0.1/24 dev veth2")
		netns.IP(t, "-6 address add fd09::1/64 dev veth0 nodad")
		netns.Sysctl(t, "net.ipv4.conf.veth0.rp_filter", "1")
		for _, tt := range []struct {
			do, undo string
			from     string
			device   string
			mark     uint32
			want     routing.Decision
			err      error
		}{
			{from: "127.0.0.1:22", device: "lo", err: unix.ENETUNREACH,
				want: routing.Decision{Preference: 32766, Rule: "32766: from all lookup main"}},
			{from: "[::1]:22", device: "lo", err: unix.ENETUNREACH,
				want: routing.Decision{Preference: 32766, Rule: "32766: from all lookup main"}},
			{do: "route add local default dev lo table 7700"},
			{do: "-6 route add local default dev lo table 7700"},
			{do: "rule add from 127.0.0.1 iif lo ipproto tcp sport 22 lookup 7700 pref 7700", from: "127.0.0.1:22", device: "lo",
				want: routing.Decision{Local: true, Device: "lo", Table: 7700, Preference: 7700,
					Rule: "7700: from 127.0.0.1/32 iif lo ipproto tcp sport 22-22 lookup 7700"}},
			// another port
			{from: "127.0.0.1:23", device: "lo", err: unix.ENETUNREACH,
				want: routing.Decision{Preference: 32766, Rule: "32766: from all lookup main"}},
			{do: "-6 rule add from ::1 iif lo ipproto tcp sport 22 lookup 7700 pref 7700", from: "[::1]:22", device: "lo",
				want: routing.Decision{Local: true, Device: "lo", Table: 7700, Preference: 7700,
					Rule: "7700: from ::1/128 iif lo ipproto tcp sport 22-22 lookup 7700"}},
			{do: "rule add iif veth0 from 10.9.0.2 lookup 7700 pref 7701", from: "10.9.0.2:25", device: "veth0",
				want: routing.Decision{Local: true, Device: "lo", Table: 7700, Preference: 7701,
					Rule: "7701: from 10.9.0.2/32 iif veth0 lookup 7700"}},
			{do: "-6 rule add iif veth0 from fd09::2 lookup 7700 pref 7701", from: "[fd09::2]:25", device: "veth0",
				want: routing.Decision{Local: true, Device: "lo", Table: 7700, Preference: 7701,
					Rule: "7701: from fd09::2/128 iif veth0 lookup 7700"}},
			// 10.8.0.0/24 is behind another interface, and rp_filter is strict.
			{do: "rule add iif veth0 from 10.8.0.2 lookup 7700 pref 7702", from: "10.8.0.2:25", device: "veth0",
				err:  routing.ErrReversePath,
				want: routing.Decision{Preference: 7702, Rule: "7702: from 10.8.0.2/32 iif veth0 lookup 7700"}},
			{do: "rule add fwmark 7700 iif veth2 lookup 7700 pref 7703", from: "10.8.0.2:25", device: "veth2", mark: 7700,
				want: routing.Decision{Local: true, Device: "lo", Table: 7700, Preference: 7703,
					Rule: "7703: from all fwmark 0x1e14 iif veth2 lookup 7700"}},
			{do: "route add default via 10.9.0.9"},
			// no output route from loopback
			{do: "rule add from 127.0.0.0/8 lookup main pref 99", undo: "rule del pref 99", from: "127.0.0.1:22", device: "lo",
				err:  unix.EINVAL,
				want: routing.Decision{Preference: 99, Rule: "99: from 127.0.0.0/8 lookup main"}},
			{do: "rule add to 192.0.2.0/24 lookup main pref 98", undo: "rule del pref 98", from: "10.9.0.1:22", device: "lo",
				want: routing.Decision{Device: "veth0", Table: unix.RT_TABLE_MAIN, Preference: 98,
					Rule: "98: from all to 192.0.2.0/24 lookup main"}},
			{do: "rule add from 127.0.0.1 ipproto tcp prohibit pref 97", undo: "rule del pref 97", from: "127.0.0.1:22",
				device: "lo", err: unix.EACCES,
				want: routing.Decision{Preference: 97, Rule: "97: from 127.0.0.1/32 ipproto tcp forbids it"}},
			{do: "rule add not from 10.0.0.0/8 ipproto tcp unreachable pref 96", undo: "rule del pref 96",
				from: "127.0.0.1:22", device: "lo", err: unix.ENETUNREACH,
				want: routing.Decision{Preference: 96, Rule: "96: not from 10.0.0.0/8 ipproto tcp forbids it"}},
		} {
			if tt.do != "" {
				netns.IP(t, tt.do)
			}
			if tt.from == "" {
				continue
			}
			from, to := netip.MustParseAddrPort(tt.from), netip.MustParseAddrPort("192.0.2.9:40001")
			if from.Addr().Is6() {
				to = netip.MustParseAddrPort("[2001:db8::9]:40001")
			}
			got, err := routing.Lookup(routing.Reply{From: from, To: to, Device: tt.device, Mark: tt.mark})
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("after ip %q, Lookup of a reply from %s = %+v, %v; want %+v, %v", tt.do, tt.from, got, err, tt.want,
					tt.err)
			}
			if tt.undo != "" {
				netns.IP(t, tt.undo)
			}
		}
		_, err := routing.Lookup(routing.Reply{From: netip.MustParseAddrPort("10.9.0.2:25"),
			To: netip.MustParseAddrPort("192.0.2.9:1"), Device: "none0"})
		if err == nil || !strings.Contains(err.Error(), `"none0"`) {
			t.Errorf("missing interface: %v", err)
		}
	})
}

package config

import (
	"fmt"
	"strings"
	"testing"
)

// What --transparent toa cannot do is refused; what it does without a warning is here, too.
func TestTOA(t *testing.T) {
	const warnsOfLocal = "connections that name no client"
	for _, tt := range []struct {
		forward  string
		settings string // separated by |
		problem  string
		warning  string
	}{
		{":1=127.0.0.1:2", "transparent toa", "", warnsOfLocal},
		{":1=127.0.0.1:2", "transparent toa|toa-source 127.0.0.77", "", ""},
		{":1=127.0.0.1:2", "transparent toa|local close", "", ""},
		{":1=127.0.0.1:2", "transparent toa|accept v1", "", ""},
		{":1=127.0.0.1:2", "transparent toa|accept v1|unknown relay", "", warnsOfLocal},
		{":1=127.0.0.1:2", "transparent toa|local close|family-mismatch plain", "", warnsOfLocal},
		{":1=127.0.0.1:2", "transparent toa|local close|family-mismatch map", "", ""},
		{":1=127.0.0.1:2", "transparent toa|local close|family-mismatch carry", "", "an IPv4 socket cannot show"},
		{":1=127.0.0.1:2", "transparent on|family-mismatch carry", "family mismatch carry needs an option", ""},
		{":1=127.0.0.1:2", "transparent toa|toa-format legacy", "", "the legacy format has no promise"},
		{":1=127.0.0.1:2", "transparent toa|local close|source-port any", "", "has no effect without --transparent on"},
		{":1=127.0.0.1:2", "transparent on|toa-source 127.0.0.77", "", "has no effect without --transparent toa"},
		{":1=127.0.0.1:2", "transparent on|toa-format legacy", "", "has no effect without --transparent toa"},
		{"udp://:1=127.0.0.1:2", "transparent toa", "a udp:// forward cannot use a TCP option", ""},
		{"udp://:1=127.0.0.1:2?transparent=on", "transparent toa", "", ""},
		{":1=unix:/run/x.sock", "transparent toa", "a backend on a unix socket has no TCP options", ""},
		{":1=127.0.0.1:2,unix:/run/x.sock", "transparent toa", "a backend on a unix socket has no TCP options", ""},
		{":1=127.0.0.1:2", "transparent to", "is not one of on, off, toa", ""},
		{":1=127.0.0.1:2", "transparent toa|toa-source 10.0.0.1/8", "has bits behind the prefix", ""},
		{":1=127.0.0.1:2", "transparent toa|toa-source 0.0.0.0", "is every address", ""},
		{":1=127.0.0.1:2", "transparent toa|toa-source fe80::1%eth0", "is not an address", ""},
		{":1=127.0.0.1:2", "transparent toa|toa-source ff02::1", "is no address that a connection", ""},
	} {
		t.Run(tt.forward+" "+tt.settings, func(t *testing.T) {
			c, warnings, err := load([]string{tt.forward}, strings.Split(tt.settings, "|")...)
			if tt.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("error %v, want %q", err, tt.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			more, err := c.Validate()
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, w := range append(warnings, more...) {
				all = append(all, w.Message)
			}
			got := strings.Join(all, "; ")
			if tt.warning == "" && got != "" || !strings.Contains(got, tt.warning) {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
		})
	}
}

// Connections with an option need no route; others do.
func TestTargetsOfTOA(t *testing.T) {
	c, _, err := load([]string{":1=127.0.0.1:2?transparent=toa", ":3=127.0.0.1:4?transparent=on"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Targets().Backends); strings.Contains(got, " 2") || !strings.Contains(got, "4") || len(c.Targets().Backends) != 1 {
		t.Errorf("targets %v", got)
	}
}

// The sources of connections with an option are those of no other connection.
func TestTOASource(t *testing.T) {
	flags := []string{"transparent toa", "toa-source 192.0.2.7", "source-address 192.0.2.8"}
	for forward, want := range map[string]string{
		":1=127.0.0.1:2":                          "[192.0.2.7/32]",
		":1=127.0.0.1:2?toa-source=2001:db8::7":   "[2001:db8::7/128]",
		":1=127.0.0.1:2?transparent=off":          "[192.0.2.8/32]",
		":1=127.0.0.1:2?transparent=on":           "[]",
		":1=127.0.0.1:2?toa-source=192.0.2.16/28": "[192.0.2.16/28]",
	} {
		if got := fmt.Sprint(mustLoad(t, forward, flags...).SourceAddresses); got != want {
			t.Errorf("%s: %s, want %s", forward, got, want)
		}
	}
}

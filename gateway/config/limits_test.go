package config

import (
	"fmt"
	"strings"
	"testing"
)

// The last descriptors: with one loop, 40 are for the process and two pipes. Connections
// take two each, flows one. Two free ones are enough to start; for copies, two must remain.
func TestLastDescriptors(t *testing.T) {
	const tcp, udp = ":1=127.0.0.1:9", "udp://:1=127.0.0.1:9"
	for _, tt := range []struct {
		forwards    string
		descriptors int
		perListener int
		connections int // -1: it does not start
		flows       int
		warns       bool
	}{
		{tcp, 42, 0, -1, 0, false},
		{tcp, 43, 0, 1, 0, false},
		{tcp, 45, 0, 2, 0, false},
		{tcp, 43, 1, 1, 0, true},
		{tcp, 44, 1, 1, 0, false},
		{tcp, 45, 2, 1, 0, false},
		{udp, 42, 0, -1, 0, false},
		{udp, 43, 0, 0, 2, false},
		{udp, 44, 0, 0, 3, false},
		{tcp + " " + udp, 43, 0, -1, 0, false},
		{tcp + " " + udp, 44, 0, 1, 2, false},
		{tcp + " " + udp, 47, 0, 1, 2, false},
		{tcp + " " + udp, 52, 0, 2, 4, false}, // three pipes
		{tcp + " " + udp, 46, 1, 1, 2, false},
		{tcp + " " + udp, 45, 1, 1, 2, true},
	} {
		c, warnings, err := Load(Source{
			Forwards: strings.Fields(tt.forwards), Descriptors: tt.descriptors, PerListener: tt.perListener,
			Settings: Values{"trust": {"10.0.0.0/8"}, "loops": {"1"}},
		})
		if tt.connections < 0 {
			want := fmt.Sprintf("%d listeners leave no file descriptors for connections: the limit is %d",
				len(strings.Fields(tt.forwards)), tt.descriptors)
			if len(Leaves(err)) != 1 || err.Error() != want {
				t.Errorf("%s, %d descriptors: %v", tt.forwards, tt.descriptors, err)
			}
			continue
		}
		if err != nil || c.MaxConnections != tt.connections || c.MaxFlows != tt.flows || len(warnings) > 0 != tt.warns {
			t.Errorf("%s, %d descriptors, %d copies: %+v, %v, %v; want %d connections, %d flows",
				tt.forwards, tt.descriptors, tt.perListener, c, warnings, err, tt.connections, tt.flows)
		}
	}
}

// A limit that was given is kept up to what the descriptors allow.
func TestGivenLimits(t *testing.T) {
	for _, tt := range []struct {
		forward, flag   string
		most            int
		connections     int
		flows           int
		message, advice string // of the warning
	}{
		{":1=127.0.0.1:9", "max-connections 2", 45, 2, 0, "", ""},
		{":1=127.0.0.1:9", "max-connections 3", 45, 2, 0,
			"--max-connections 3 is more than 45 file descriptors allow: the limit is 2", "LimitNOFILE"},
		{":1=127.0.0.1:9", "max-connections 1", 45, 1, 0, "", ""},
		{":1=127.0.0.1:9", "max-connections off", 45, 2, 0, "", ""},
		{"udp://:1=127.0.0.1:9", "udp-max-flows 4", 45, 0, 4, "", ""},
		{"udp://:1=127.0.0.1:9", "udp-max-flows 5", 45, 0, 4,
			"--udp-max-flows 5 is more than 45 file descriptors allow: the limit is 4", "LimitNOFILE"},
		{"udp://:1=127.0.0.1:9", "udp-max-flows 150000", 200_000, 0, 150_000, "", ""}, // above the default
		{"udp://:1=127.0.0.1:9", "udp-max-flows 0", 1_000_000, 0, 1_000_000 - 1 - 2*64 - 32 - 4, "", ""},
	} {
		name, text, _ := strings.Cut(tt.flag, " ")
		c, warnings, err := Load(Source{
			Forwards: []string{tt.forward}, Descriptors: tt.most,
			Settings: Values{"trust": {"10.0.0.0/8"}, "loops": {"1"}, name: {text}},
		})
		if err != nil || c.MaxConnections != tt.connections || c.MaxFlows != tt.flows {
			t.Errorf("%s --%s: %+v, %v; want %d connections, %d flows",
				tt.forward, tt.flag, c, err, tt.connections, tt.flows)
		}
		switch {
		case tt.message == "" && len(warnings) == 0:
		case len(warnings) != 1 || warnings[0].Message != tt.message || !strings.Contains(warnings[0].Hint, tt.advice),
			warnings[0].About != AboutDescriptors:
			t.Errorf("%s --%s: %+v; want %q", tt.forward, tt.flag, warnings, tt.message)
		}
	}
}

// A limit on waiting connections that is no limit is reported, with half of the limit on
// connections as the advice. For a single connection there is nothing better.
func TestWaitingLimitWithoutEffect(t *testing.T) {
	for _, tt := range []struct{ connections, waiting, hint string }{
		{"100", "100", "--max-waiting 50"},
		{"100", "101", "--max-waiting 50"},
		{"2", "2", "--max-waiting 1"},
		{"2", "1", ""},
		{"1", "1", ""},
		{"off", "1", ""},
	} {
		_, warnings, err := load([]string{":1=127.0.0.1:9"}, "max-connections "+tt.connections, "max-waiting "+tt.waiting)
		hint := ""
		for _, w := range warnings {
			hint += w.Hint
		}
		if err != nil || hint != tt.hint || len(warnings) > 0 != (tt.hint != "") {
			t.Errorf("--max-connections %s, --max-waiting %s: %+v, %v; want the hint %q",
				tt.connections, tt.waiting, warnings, err, tt.hint)
		}
	}
}

// Sockets from systemd that no listener names need descriptors as well; fewer than the
// listeners name need no less.
func TestActivatedSockets(t *testing.T) {
	connections := func(activated int) int {
		c, _, err := Load(Source{
			Forwards: []string{"systemd:a=127.0.0.1:9", "systemd:b=127.0.0.1:9", ":1=127.0.0.1:9"}, Activated: activated,
			Descriptors: 1001, Settings: Values{"trust": {"10.0.0.0/8"}, "loops": {"1"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c.MaxConnections
	}
	for activated, want := range map[int]int{0: 419, 1: 419, 2: 419, 4: 418, 102: 369} {
		if got := connections(activated); got != want {
			t.Errorf("%d sockets from systemd: %d connections; want %d", activated, got, want)
		}
	}
}

package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
)

// findings are the problems and warnings of a configuration, each with its hint.
func findings(warnings []Warning, err error) (all []string) {
	for _, e := range Leaves(err) {
		all = append(all, e.Error()+" | "+HintOf(e))
	}
	for _, w := range warnings {
		all = append(all, "warning: "+w.Message+" | "+w.Hint)
	}
	return all
}

// Values at which a fault or a doubt begins, and those beside them.
func TestWhereFindingsBegin(t *testing.T) {
	for _, tt := range []struct {
		forward string
		given   string // separated by |
		want    string // the only finding; "" is none
	}{
		{":1=127.0.0.1:2", "header-timeout 3s", ""},
		{":1=127.0.0.1:2", "header-timeout 2999ms", "header timeout 2.999s is shorter than the 3s"},
		{"udp://:1=127.0.0.1:2?udp-header=first&udp-idle-timeout=59s", "", "flows end after 59s of silence"},
		{"udp://:1=127.0.0.1:2?udp-header=every&udp-idle-timeout=1s", "", ""},
		{"udp://:1=127.0.0.1:2?udp-header=spp&accept=v1", "", "accept has no effect with the headers of --udp-header spp"},
		{"unix:/a=127.0.0.1:2", "socket-mode 0665", ""},
		{"unix:/a=127.0.0.1:2", "socket-mode 0661", ""},
		{"unix:/a=127.0.0.1:2", "socket-mode 0602", "socket mode 0602 lets every user of this host name any client | --socket-mode 0660"},
		{":1=127.0.0.1:2?allow-destination=any", "", "allow-destination has no effect without the backend \"header\""},
		{":1=header?allow-destination=0.0.0.0/0", "", "headers may name any destination"},
		{":1=header?allow-destination=::/0", "", "headers may name any destination"},
		{":1=header?allow-destination=0.0.0.0/1&allow-destination=::/1", "", ""},
		{":1=127.0.0.1:2?transparent&allow-source=::/0", "", "headers may name any source"},
		{":1=127.0.0.1:2?transparent&allow-source=128.0.0.0/1", "", ""},
		{":1=127.0.0.1:2,10.0.0.1:2?transparent&unknown=relay", "", "for clients that no header names | --unknown reject"},
		{":1=unix:/a?transparent", "", "transparent mode cannot reach a backend on a unix socket"},
		{":1=127.0.0.1:2", "max-header 100|accept v1", "--max-header has no effect where only v1 is accepted"},
		{"udp://:1=127.0.0.1:2?udp-header=spp&max-header=100", "", "max-header has no effect with the headers of --udp-header spp"},
		{"udp://:1=127.0.0.1:2?udp-header=spp&require-checksum", "", "require-checksum has no effect with the headers of --udp-header spp"},
		{":1=127.0.0.1:2?map-prefix=2001:db8::/96", "", "map-prefix has no effect without --transparent on"},
		{":1=127.0.0.1:2?transparent&map-prefix=2001:db8::/96", "", "map-prefix has no effect without --family-mismatch map"},
		{":1=127.0.0.1:2?transparent&map-prefix=2001:db8::/96&family-mismatch=map", "", ""},
		{":1=127.0.0.1:2", "max-header 100|v1-mixed-families on", ""},
		{":1=127.0.0.1:2?accept=v1", "v1-mixed-families on", ""},
		{":1=127.0.0.1:2?accept=v2", "max-header 100|require-checksum on", ""},
		{"udp://:1=127.0.0.1:2?udp-header=first", "max-header 100|headers 2|local close|unknown reject", ""},
		{":1=127.0.0.1:2", "headers 2|local close|unknown reject|header-timeout 4s|connect-timeout 4s|backend-check 1s", ""},
		{":1=127.0.0.1:2", "idle-timeout 1m|keepalive 1m|user-timeout 1m|max-connections 100|max-waiting 10|max-buffer 1GiB", ""},
		{":1=127.0.0.1:2?transparent", "self-test-interval 1m|source-port keep|family-mismatch plain|allow-source 127.0.0.0/8", ""},
		{":1=127.0.0.1:2?transparent=toa&local=close", "self-test-interval 1m|family-mismatch map|toa-source 127.0.0.7|toa-format negotiated", ""},
		{"systemd:web=127.0.0.1:2?trust=10.0.0.0/8", "", ""},
	} {
		var given []string
		if tt.given != "" {
			given = strings.Split(tt.given, "|")
		}
		_, warnings, err := load([]string{tt.forward}, given...)
		got := findings(warnings, err)
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
			t.Errorf("%s %s: %q; want %q", tt.forward, tt.given, got, tt.want)
		}
	}
}

// A program may fill in a configuration that no flags make. Each row changes a valid one.
func TestFindingsByHand(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config, *forward.Forward)
		want   string
	}{
		{"nothing", func(*Config, *forward.Forward) {}, ""},
		{"loops", func(c *Config, _ *forward.Forward) { c.Loops = -1 }, "must not be negative"},
		{"connections", func(c *Config, _ *forward.Forward) { c.MaxConnections = -1 }, "must not be negative"},
		{"waiting", func(c *Config, _ *forward.Forward) { c.MaxWaiting = -1 }, "must not be negative"},
		{"flows", func(c *Config, _ *forward.Forward) { c.MaxFlows = -1 }, "must not be negative"},
		{"spin", func(c *Config, _ *forward.Forward) { c.Spin = -1 }, "must not be negative"},
		{"drain delay", func(c *Config, _ *forward.Forward) { c.DrainDelay = -1 }, "must not be negative"},
		{"drain timeout", func(c *Config, _ *forward.Forward) { c.DrainTimeout = -1 }, "must not be negative"},
		{"no forward", func(c *Config, _ *forward.Forward) { c.Forwards = nil }, "there is nothing to forward | add a forward"},
		{"no listener", func(_ *Config, f *forward.Forward) { f.Listeners = nil }, "a forward has no listener | "},
		{"no header", func(_ *Config, f *forward.Forward) { f.Headers = 0 }, "forward :1: at least one header must be stripped"},
		{"no version", func(_ *Config, f *forward.Forward) { f.Header.RefuseV1, f.Header.RefuseV2 = true, true }, "neither header version"},
		{"a checksum of version 1 alone", func(_ *Config, f *forward.Forward) { f.Header.RequireChecksum, f.Header.RefuseV2 = true, true },
			"forward :1: a checksum is required, but only v1 headers are accepted, which have none | --accept v2"},
		{"a checksum of both versions", func(_ *Config, f *forward.Forward) { f.Header.RequireChecksum = true },
			"warning: forward :1: a checksum is required: v1 headers are rejected, because they have none | --accept v2"},
		{"a checksum of version 2", func(_ *Config, f *forward.Forward) { f.Header.RequireChecksum, f.Header.RefuseV1 = true, true }, ""},
		{"no backend", func(_ *Config, f *forward.Forward) { f.Listeners[0].Backends = nil }, "listener :1 has no backend | write LISTEN=BACKEND"},
		{"header and another backend", func(_ *Config, f *forward.Forward) {
			f.AllowDestination = f.Trust
			f.Listeners[0].Backends = append(f.Listeners[0].Backends, forward.Backend{FromHeader: true})
		}, `listener :1 combines backend "header" with others`},
		{"header alone", func(_ *Config, f *forward.Forward) {
			f.AllowDestination = f.Trust
			f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
		}, ""},
		{"flows without end", func(_ *Config, f *forward.Forward) { f.Datagrams, f.FlowTimeout = true, 0 }, "a UDP flow ends only by its idle timeout"},
		{"flows that end", func(_ *Config, f *forward.Forward) { f.Datagrams, f.FlowTimeout = true, time.Nanosecond }, ""},
		{"a socket of systemd, before it is open", func(_ *Config, f *forward.Forward) {
			f.Trust, f.Listeners[0] = nil, forward.Listener{Name: "systemd:a", Activation: "a", Backends: f.Listeners[0].Backends}
		}, "warning: forward systemd:a: there is no trust rule: only a unix socket can be served"},
		{"an address from systemd", func(_ *Config, f *forward.Forward) {
			f.Trust, f.Listeners[0].Activation, f.Listeners[0].Socket = nil, "a", new(forward.Socket)
		}, "there is no trust rule: no peer may name a client | give the addresses of the load balancer"},
		{"an unknown port", func(_ *Config, f *forward.Forward) {
			f.Listeners[0].Endpoint.Addr = netip.MustParseAddrPort("127.0.0.1:0")
			f.Listeners[0].Backends[0].Endpoint.Addr = netip.MustParseAddrPort("127.0.0.1:0")
		}, ""},
	} {
		f := mustLoad(t, ":1=127.0.0.1:2")
		c := &Config{Forwards: []*forward.Forward{f}}
		tt.change(c, f)
		got := findings(c.Validate())
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}
}

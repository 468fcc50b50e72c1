package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// load loads forwards with settings of the form "name value". The default trust
// rule is 10.0.0.0/8.
func load(forwards []string, given ...string) (*Config, []Warning, error) {
	values := Values{}
	for _, g := range given {
		name, value, _ := strings.Cut(g, " ")
		values[name] = append(values[name], value)
	}
	if values["trust"] == nil && values["trust-file"] == nil {
		values["trust"] = []string{"10.0.0.0/8"}
	}
	return Load(Source{Forwards: forwards, Settings: values})
}

func mustLoad(t *testing.T, forward string, given ...string) *forward.Forward {
	t.Helper()
	c, _, err := load([]string{forward}, given...)
	if err != nil {
		t.Fatalf("Load(%q, %q) failed: %v", forward, given, err)
	}
	return c.Forwards[0]
}

func TestDefaults(t *testing.T) {
	f := mustLoad(t, ":8443=127.0.0.1:443")
	// The defaults are those of the documented flags.
	checks := map[string]bool{
		"untrusted reject":       !f.PassUntrusted,
		"cut-untrusted off":      !f.CutUntrusted,
		"accept both":            !f.Header.RefuseV1 && !f.Header.RefuseV2,
		"header-timeout 5s":      f.HeaderTimeout == 5*time.Second,
		"max-header 16KiB":       f.Header.MaxLength == 16384,
		"require-checksum off":   !f.Header.RequireChecksum,
		"v1-mixed-families off":  !f.Header.MixedFamilies,
		"headers 1":              f.Headers == 1,
		"local relay":            !f.CloseLocal,
		"unknown relay":          !f.RejectUnknown,
		"transparent off":        !f.Transparent,
		"tproxy off":             !f.TProxy && f.Redirect == nil,
		"source-port prefer":     f.Source.SourcePort == transparent.Prefer,
		"family-mismatch reject": f.Source.FamilyMismatch == transparent.Reject,
		"mark off":               f.Mark == 0,
		"connect-timeout 5s":     f.ConnectTimeout == 5*time.Second,
		"idle-timeout off":       f.IdleTimeout == 0,
		"keepalive 15s":          f.Keepalive == 15*time.Second,
		"user-timeout off":       f.UserTimeout == 0,
		"socket-mode 0660":       f.SocketMode == 0o660,
		"no list":                f.Health == nil && f.AllowDestination == nil && f.Source.Allow == nil,
		"per client off":         f.MaxConnectionsPerClient == 0,
		"accept-rate off":        f.AcceptRate == forward.Rate{},
	}
	for name, ok := range checks {
		if !ok {
			t.Errorf("default of %s: %+v", name, f)
		}
	}
	c, _, err := load([]string{":1=127.0.0.1:2"})
	if err != nil || c.Loops < 1 || c.DrainDelay != 0 || c.DrainTimeout != 30*time.Second || c.ReloadInterval != 0 || c.UpgradeTimeout != 30*time.Second {
		t.Errorf("process defaults: %+v, %v", c, err)
	}
}

// A range of ports is on demand unless a flag or a key says otherwise.
func TestOnDemandByDefault(t *testing.T) {
	for _, tt := range []struct {
		forward, flag string
		want          bool
	}{
		{":1=127.0.0.1:2", "", false},
		{":1=127.0.0.1:2?on-demand", "", true},
		{":10-11=127.0.0.1:20-21", "", true},
		{"udp://:10-11=127.0.0.1:20-21", "", true},
		{":10-10=127.0.0.1:20-20", "", false},
		{":10-11=127.0.0.1:20-21?on-demand=off", "", false},
		{":10-11=127.0.0.1:20-21", "on-demand off", false},
		{":10-11=127.0.0.1:20-21?on-demand=on", "on-demand off", true},
	} {
		flags := []string{tt.flag}
		if tt.flag == "" {
			flags = nil
		}
		if got := mustLoad(t, tt.forward, flags...).OnDemand; got != tt.want {
			t.Errorf("%s %s: on demand %v, want %v", tt.forward, tt.flag, got, tt.want)
		}
	}
}

// settingRows has a row for every setting: a value for the flag, its effect, and
// another value for the key, which overrides the flag.
var settingRows = []struct {
	flag, key string
	is        func(*forward.Forward) any
	want      any // of the flag
	replaced  any // of the key
}{
	{"cut-untrusted on", "cut-untrusted=off", func(f *forward.Forward) any { return f.CutUntrusted }, true, false},
	{"untrusted pass", "untrusted=reject", func(f *forward.Forward) any { return f.PassUntrusted }, true, false},
	{"client-rate 5/7", "client-rate=9", func(f *forward.Forward) any { return f.ClientRate }, forward.Rate{PerSecond: 5, Burst: 7}, forward.Rate{PerSecond: 9, Burst: 9}},
	{"accept v1", "accept=v2", func(f *forward.Forward) any { return [2]bool{f.Header.RefuseV1, f.Header.RefuseV2} }, [2]bool{false, true}, [2]bool{true, false}},
	{"header-timeout 7s", "header-timeout=0", func(f *forward.Forward) any { return f.HeaderTimeout }, 7 * time.Second, time.Duration(0)},
	{"max-header 4096", "max-header=64KiB", func(f *forward.Forward) any { return f.Header.MaxLength }, 4096, 65551},
	{"max-header 4096", "max-header=1MiB", func(f *forward.Forward) any { return f.Header.MaxLength }, 4096, 65551},
	{"require-checksum on", "require-checksum=off", func(f *forward.Forward) any { return f.Header.RequireChecksum }, true, false},
	{"v1-mixed-families ", "v1-mixed-families=false", func(f *forward.Forward) any { return f.Header.MixedFamilies }, true, false},
	{"v1-mixed-families ", "v1-ipv4-in-tcp6=false", func(f *forward.Forward) any { return f.Header.MixedFamilies }, true, false},
	{"headers 2", "headers=3", func(f *forward.Forward) any { return f.Headers }, 2, 3},
	{"local close", "local=relay", func(f *forward.Forward) any { return f.CloseLocal }, true, false},
	{"unknown reject", "unknown=relay", func(f *forward.Forward) any { return f.RejectUnknown }, true, false},
	{"transparent on", "transparent=off", func(f *forward.Forward) any { return f.Transparent }, true, false},
	{"transparent off", "transparent", func(f *forward.Forward) any { return f.Transparent }, false, true},
	{"transparent toa", "transparent=on", func(f *forward.Forward) any { return f.TOA.On && f.Transparent }, true, false},
	{"transparent on", "transparent=toa", func(f *forward.Forward) any { return f.TOA.On && f.Transparent }, false, true},
	{"toa-format legacy", "toa-format=negotiated", func(f *forward.Forward) any { return f.TOA.Format }, toa.Legacy, toa.Negotiated},
	{"source-port keep", "source-port=any", func(f *forward.Forward) any { return f.Source.SourcePort }, transparent.Keep, transparent.Any},
	{"family-mismatch plain", "family-mismatch=map", func(f *forward.Forward) any { return f.Source.FamilyMismatch }, transparent.Plain, transparent.Map},
	{"map-prefix 2001:db8:64::/96", "map-prefix=64:ff9b::/96", func(f *forward.Forward) any { return f.Source.MapPrefix },
		netip.MustParsePrefix("2001:db8:64::/96"), netip.MustParsePrefix("64:ff9b::/96")},
	{"tproxy on", "tproxy=off", func(f *forward.Forward) any { return f.TProxy }, true, false},
	{"on-demand ", "on-demand=off", func(f *forward.Forward) any { return f.OnDemand }, true, false},
	{"source-address 10.9.0.0/28", "source-address=10.9.0.7&source-address=2001:db8::1",
		func(f *forward.Forward) any { return fmt.Sprint(f.SourceAddresses) }, "[10.9.0.0/28]", "[10.9.0.7/32 2001:db8::1/128]"},
	{"mark 0x10", "mark=off", func(f *forward.Forward) any { return f.Mark }, uint32(16), uint32(0)},
	{"connect-timeout 1s", "connect-timeout=2s", func(f *forward.Forward) any { return f.ConnectTimeout }, time.Second, 2 * time.Second},
	{"backend-check 2s", "backend-check=off", func(f *forward.Forward) any { return f.BackendCheck }, 2 * time.Second, time.Duration(0)},
	{"backend-retry 1m", "backend-retry=0", func(f *forward.Forward) any { return f.BackendRetry }, time.Minute, time.Duration(0)},
	{"idle-timeout 1h", "idle-timeout=off", func(f *forward.Forward) any { return f.IdleTimeout }, time.Hour, time.Duration(0)},
	{"keepalive 1m", "keepalive=0", func(f *forward.Forward) any { return f.Keepalive }, time.Minute, time.Duration(0)},
	{"udp-header first", "udp-header=spp", func(f *forward.Forward) any { return f.DatagramHeader }, forward.FirstDatagram, forward.SimpleProxy},
	{"udp-idle-timeout 2m", "udp-idle-timeout=90s", func(f *forward.Forward) any { return f.FlowTimeout }, 2 * time.Minute, 90 * time.Second},
	{"user-timeout 20s", "user-timeout=30s", func(f *forward.Forward) any { return f.UserTimeout }, 20 * time.Second, 30 * time.Second},
	{"accept-rate 10/20", "accept-rate=7", func(f *forward.Forward) any { return f.AcceptRate }, forward.Rate{PerSecond: 10, Burst: 20}, forward.Rate{PerSecond: 7, Burst: 7}},
	{"max-connections-per-client 5", "max-connections-per-client=6", func(f *forward.Forward) any { return f.MaxConnectionsPerClient }, 5, 6},
	{"socket-mode 0600", "socket-mode=666", func(f *forward.Forward) any { return uint32(f.SocketMode) }, uint32(0o600), uint32(0o666)},
	{"trust 192.0.2.0/24", "trust=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.Trust }), "192.0.2.0/24", "198.51.100.0/24"},
	{"allow-client 192.0.2.0/24", "allow-client=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.AllowClient }), "192.0.2.0/24", "198.51.100.0/24"},
	{"deny-client 192.0.2.0/24", "deny-client=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.DenyClient }), "192.0.2.0/24", "198.51.100.0/24"},
	{"direct 192.0.2.0/24", "direct=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.Direct }), "192.0.2.0/24", "198.51.100.0/24"},
	{"health-source 192.0.2.0/24", "health-source=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.Health }), "192.0.2.0/24", "198.51.100.0/24"},
	{"allow-source 192.0.2.0/24", "allow-source=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.Source.Allow }), "192.0.2.0/24", "198.51.100.0/24"},
	{"allow-destination 192.0.2.0/24", "allow-destination=198.51.100.0/24", texts(func(f *forward.Forward) forward.Addresses { return f.AllowDestination }), "192.0.2.0/24", "198.51.100.0/24"},
}

func texts(of func(*forward.Forward) forward.Addresses) func(*forward.Forward) any {
	return func(f *forward.Forward) any {
		var all []string
		for _, r := range Rules(of(f)) {
			all = append(all, r.Text)
		}
		return strings.Join(all, " ")
	}
}

func TestEverySetting(t *testing.T) {
	covered := map[string]bool{"trust-file": true, "allow-client-file": true, "deny-client-file": true, "redirect": true, maxConnectionsFlag: true, maxFlowsFlag: true, "toa-source": true} // have separate tests
	for _, tt := range settingRows {
		name, _, _ := strings.Cut(tt.flag, " ")
		covered[name] = true
		if got := tt.is(mustLoad(t, ":1=127.0.0.1:2", tt.flag)); got != tt.want {
			t.Errorf("--%s: %v; want %v", tt.flag, got, tt.want)
		}
		if got := tt.is(mustLoad(t, ":1=127.0.0.1:2?"+tt.key, tt.flag)); got != tt.replaced {
			t.Errorf("?%s over --%s: %v; want %v", tt.key, tt.flag, got, tt.replaced)
		}
	}
	for _, s := range Settings() {
		if s.IsKey() && !covered[s.Name] {
			t.Errorf("no row for the setting %s", s.Name)
		}
	}
}

// processRows has a row for every setting of the process.
var processRows = []struct {
	flag string
	is   func(*Config) any
	want any
}{
	{"udp-max-flows 5", func(c *Config) any { return c.MaxFlows }, 5},
	{"max-connections 6", func(c *Config) any { return c.MaxConnections }, 6},
	{"loops 3", func(c *Config) any { return c.Loops }, 3},
	{"spin 50us", func(c *Config) any { return c.Spin }, 50 * time.Microsecond},
	{"max-buffer 2GiB", func(c *Config) any { return c.MaxBuffer }, 2 << 30},
	{"max-waiting 4", func(c *Config) any { return c.MaxWaiting }, 4},
	{"drain-delay 1s", func(c *Config) any { return c.DrainDelay }, time.Second},
	{"drain-timeout 2s", func(c *Config) any { return c.DrainTimeout }, 2 * time.Second},
	{"self-test-interval 3s", func(c *Config) any { return c.SelfTestInterval }, 3 * time.Second},
	{"reload-interval 4s", func(c *Config) any { return c.ReloadInterval }, 4 * time.Second},
	{"upgrade-timeout 5s", func(c *Config) any { return c.UpgradeTimeout }, 5 * time.Second},
	{"route-table 101", func(c *Config) any { return c.Routes.Table }, uint32(101)},
	{"rule-preference 102", func(c *Config) any { return c.Routes.Preference }, uint32(102)},
	{"ban-file /nonexistent/bans", func(c *Config) any { return c.Bans != nil && c.Bans.Path() != "" }, true},
	{"route-mark 103", func(c *Config) any { return c.Routes.Mark }, uint32(103)},
	{"user nobody:0", func(c *Config) any {
		if c.User == nil {
			return ""
		}
		return c.User.Text
	}, "nobody:0"},
	{"sandbox strict", func(c *Config) any { return c.Sandbox }, sandbox.Strict},
	{"env-file -a", func(c *Config) any { return strings.Join(c.EnvFiles, " ") }, "a"},
	{"recipe marks", func(c *Config) any { return c.Routes.Recipe.String() }, "marks"},
}

// A setting of the process has its own effect and no other.
func TestEveryProcessSetting(t *testing.T) {
	derived := map[string]bool{maxWaitingFlag: true, maxBufferFlag: true} // by default from other limits
	covered := map[string]bool{}
	for _, tt := range processRows {
		name, _, _ := strings.Cut(tt.flag, " ")
		covered[name] = true
		c, _, err := load([]string{":1=127.0.0.1:2"}, tt.flag)
		if err != nil {
			t.Errorf("--%s: %v", tt.flag, err)
			continue
		}
		if got := tt.is(c); got != tt.want {
			t.Errorf("--%s: %v; want %v", tt.flag, got, tt.want)
		}
		for _, other := range processRows {
			if got, fresh := other.is(c), newConfig(); other.flag != tt.flag && got != other.is(&fresh) && !derived[strings.Fields(other.flag)[0]] {
				t.Errorf("--%s also sets --%s: %v", tt.flag, other.flag, got)
			}
		}
	}
	for _, s := range Settings() {
		if s.process != nil && !covered[s.Name] {
			t.Errorf("no row for the setting %s", s.Name)
		}
	}
}

func TestKeysApplyToOneForward(t *testing.T) {
	c, _, err := load([]string{":1=127.0.0.1:9?headers=2&trust=192.0.2.1", ":2=127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Forwards[0].Headers != 2 || c.Forwards[1].Headers != 1 {
		t.Errorf("headers %d and %d; want 2 and 1", c.Forwards[0].Headers, c.Forwards[1].Headers)
	}
	common := netip.MustParseAddr("10.1.1.1")
	if c.Forwards[0].Trust.Contains(common) || !c.Forwards[1].Trust.Contains(common) {
		t.Error("a forward's trust key must replace the common rules for that forward only")
	}
}

func TestTrustFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lb.txt")
	if err := os.WriteFile(name, []byte("# ours\n192.0.2.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inFile, common := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("10.1.1.1")
	f := mustLoad(t, ":1=127.0.0.1:2", "trust 10.0.0.0/8", "trust-file "+name)
	if !f.Trust.Contains(inFile) || !f.Trust.Contains(common) {
		t.Error("--trust and --trust-file must form one list")
	}
	f = mustLoad(t, ":1=127.0.0.1:2?trust-file="+name, "trust 10.0.0.0/8")
	if !f.Trust.Contains(inFile) || f.Trust.Contains(common) {
		t.Error("a forward's trust-file key must replace the common rules")
	}
}

func TestUnknownFollowsTransparent(t *testing.T) {
	for _, tt := range []struct {
		forward string
		given   []string
		want    bool
	}{
		{":1=127.0.0.1:2", nil, false},
		{":1=127.0.0.1:2", []string{"transparent on"}, true},
		{":1=127.0.0.1:2?transparent", nil, true},
		{":1=127.0.0.1:2?transparent", []string{"unknown relay"}, false},
		{":1=127.0.0.1:2?transparent&unknown=relay", []string{"unknown reject"}, false},
		{":1=127.0.0.1:2?transparent=off", []string{"transparent on"}, false},
	} {
		if got := mustLoad(t, tt.forward, tt.given...).RejectUnknown; got != tt.want {
			t.Errorf("%s %v: unknown rejected is %v; want %v", tt.forward, tt.given, got, tt.want)
		}
	}
}

func TestDualStack(t *testing.T) {
	c, _, err := load([]string{"[::]:80=127.0.0.1:2", "0.0.0.0:80=127.0.0.1:3", "[::]:81=127.0.0.1:2", ":82=127.0.0.1:2"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, false, true, true} {
		if l := c.Forwards[i].Listeners[0]; l.DualStack != want {
			t.Errorf("%s: dual stack is %v; want %v", l.Name, l.DualStack, want)
		}
	}
}

func TestMaxConnections(t *testing.T) {
	values := Values{"trust": {"10.0.0.0/8"}, "loops": {"2"}}
	src := Source{Forwards: []string{":1-10=127.0.0.1:99?max-connections=7"}, Settings: values, Descriptors: 1024}
	c, warnings, err := Load(src)
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	// 1024 minus 10 listeners, an eighth for pipes, 32, and 4 per loop; two
	// descriptors per connection.
	if want := (1024 - 10 - 128 - 32 - 8) / 2; c.MaxConnections != want {
		t.Errorf("max connections %d; want %d", c.MaxConnections, want)
	}
	src.Reserved = 18
	if less, _, err := Load(src); err != nil || less.MaxConnections != c.MaxConnections-9 {
		t.Errorf("with 18 descriptors reserved: %v, %v; want 9 connections less than %d", less, err, c.MaxConnections)
	}
	src.PerListener = 1
	if less, _, err := Load(src); err != nil || less.MaxConnections != c.MaxConnections-9-5 {
		t.Errorf("with a copy of each of 10 listeners: %v, %v; want 14 connections less than %d", less, err, c.MaxConnections)
	}
	many := src
	many.Forwards = []string{":1-500=127.0.0.1:999"}
	if less, warnings, err := Load(many); err != nil || less.MaxConnections != (1024-500-128-32-8-18)/2 ||
		len(warnings) != 1 || warnings[0].About != AboutDescriptors ||
		!strings.Contains(warnings[0].Message, "upgrade (SIGUSR2), which copies each of 500 listeners") {
		t.Errorf("without room for copies: %v, %v, %v; want a configuration and a warning", less, warnings, err)
	}
	activated := src
	activated.Forwards, activated.Activated = []string{"systemd:web=127.0.0.1:99", "systemd:b=127.0.0.1:99", ":1=127.0.0.1:99"}, 101
	if less, _, err := Load(activated); err != nil || less.MaxConnections != (1024-2*(101+1)-128-32-8-18)/2 {
		t.Errorf("with 101 sockets from systemd: %v, %v", less, err)
	}
	if c.Forwards[0].MaxConnections != 7 {
		t.Errorf("the forward's own limit is %d; want 7", c.Forwards[0].MaxConnections)
	}
	most := (1024 - 2*10 - 128 - 32 - 8 - 18) / 2
	for text, warned := range map[string]int{"5000": 1, "0": 0, "off": 0} {
		values[maxConnectionsFlag] = []string{text}
		c, warnings, err = Load(src)
		if err != nil || c.MaxConnections != most || len(warnings) != warned {
			t.Errorf("--max-connections %s: %+v, %v, %v; want %d, and a warning if it is lower", text, c, warnings, err, most)
		}
	}
	src.Forwards = []string{":1-900=127.0.0.1:999"}
	if _, _, err = Load(src); err == nil || !strings.Contains(err.Error(), "900 listeners") {
		t.Errorf("900 listeners in 1024 descriptors: %v", err)
	}
}

// What must work at the limit of connections has its descriptors: look-ups of names and
// checks of backends.
func TestDescriptorsHeldBack(t *testing.T) {
	load := func(forwards ...string) (all int) {
		for _, descriptors := range []int{1024, 1025} { // a connection takes two
			values := Values{"trust": {"10.0.0.0/8"}, "loops": {"1"}}
			c, _, err := Load(Source{Forwards: forwards, Descriptors: descriptors, Settings: values})
			if err != nil {
				t.Fatal(err)
			}
			all += c.MaxConnections
		}
		return all
	}
	plain := load(":1=127.0.0.1:9", ":2=127.0.0.1:9")
	for _, row := range []struct {
		less     int
		forwards []string
	}{
		{2, []string{":1=a.test:2", ":2=a.test:2"}},
		{4, []string{":1=a.test:2,b.test:2", ":2=127.0.0.1:9"}},
		{16, []string{":1=127.0.0.1:9?backend-check=5s", ":2=127.0.0.1:9?backend-check=5s"}},
	} {
		if got := load(row.forwards...); got != plain-row.less {
			t.Errorf("%q: %d descriptors, want %d less than %d", row.forwards, got, row.less, plain)
		}
	}
}

// The limits on buffers and pipes follow from the memory, that on pipes from the descriptors
// as well. A pipe may hold 1 MiB.
func TestBufferLimits(t *testing.T) {
	for _, row := range []struct {
		memory        int64
		descriptors   int
		given         string
		buffer, pipes int
	}{
		{0, 1024, "", 64 << 20, 64},
		{0, 0, "", 64 << 20, 0},
		{16 << 30, 1024, "", 1 << 30, 64},
		{16 << 30, 1 << 20, "", 1 << 30, 1024},
		{64 << 20, 1 << 20, "", 4 << 20, 4},
		{1 << 20, 1 << 20, "", 1 << 20, 2}, // a pipe for each loop
		{1, 1 << 20, "", 1 << 20, 2},
		{16 << 30, 1024, "3MiB", 3 << 20, 3},
		{16 << 30, 1024, "2GiB", 2 << 30, 64},
		{16 << 30, 1024, "off", 0, 64},
		{16 << 30, 1024, "0", 0, 64},
	} {
		values := Values{"trust": {"10.0.0.0/8"}, "loops": {"2"}}
		if row.given != "" {
			values[maxBufferFlag] = []string{row.given}
		}
		c, _, err := Load(Source{Forwards: []string{":1=127.0.0.1:2"}, Settings: values, Descriptors: row.descriptors, Memory: row.memory})
		if err != nil || c.MaxBuffer != row.buffer || c.MaxPipes != row.pipes {
			t.Errorf("%d bytes, %d descriptors, --max-buffer %q: %+v, %v; want %d and %d pipes",
				row.memory, row.descriptors, row.given, c, err, row.buffer, row.pipes)
		}
	}
	if _, _, err := load([]string{":1=127.0.0.1:2"}, "max-buffer 4k"); err == nil || !strings.Contains(err.Error(), "1MiB") {
		t.Errorf("--max-buffer 4k: %v", err)
	}
}

// Connections that wait for their header cannot use up the limit on connections by
// default.
func TestMaxWaiting(t *testing.T) {
	const allowed = (1<<20 - 1 - 2*64 - 32 - 8) / 2 // 64 pipes, of 1/16 GiB
	for _, tt := range []struct {
		most, waiting string
		want          int
		warns         bool
	}{
		{"100", "", 50, false},
		{"1", "", 1, false},
		{"100", "0", 0, false},
		{"100", "99", 99, false},
		{"100", "100", 100, true},
		{"0", "100", 100, false},
		{"0", "", (allowed + 1) / 2, false}, // as many as the descriptors allow
	} {
		values := Values{"trust": {"10.0.0.0/8"}, "loops": {"2"}, maxConnectionsFlag: {tt.most}}
		if tt.waiting != "" {
			values["max-waiting"] = []string{tt.waiting}
		}
		c, warnings, err := Load(Source{Forwards: []string{":1=127.0.0.1:2"}, Settings: values, Descriptors: 1 << 20})
		if err != nil || c.MaxWaiting != tt.want || (len(warnings) > 0) != tt.warns {
			t.Errorf("max-connections %s, max-waiting %q: %d, %v, %v; want %d", tt.most, tt.waiting, c.MaxWaiting, warnings, err, tt.want)
		}
	}
}

func TestSpin(t *testing.T) {
	for text, want := range map[string]time.Duration{"off": 0, "0": 0, "50us": 50 * time.Microsecond, "10ms": 10 * time.Millisecond} {
		c, warnings, err := load([]string{":1=127.0.0.1:2"}, "spin "+text)
		if err != nil || len(warnings) != 0 || c.Spin != want {
			t.Errorf("--spin %s: %+v, %v, %v; want %v", text, c, warnings, err, want)
		}
	}
}

// With connections and flows, each kind gets half of the descriptors, otherwise one
// gets all. A UDP listener has one socket per loop.
func TestMaxFlows(t *testing.T) {
	values := Values{"trust": {"10.0.0.0/8"}, "loops": {"2"}}
	src := Source{Forwards: []string{"udp://:1-10=127.0.0.1:99?udp-max-flows=7"}, Settings: values, Descriptors: 1024}
	c, warnings, err := Load(src)
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	if want := 1024 - 20 - 128 - 32 - 8; c.MaxFlows != want || c.MaxConnections != 0 || c.Forwards[0].MaxFlows != 7 {
		t.Errorf("%d flows, %d of the forward, %d connections; want %d, 7, 0", c.MaxFlows, c.Forwards[0].MaxFlows, c.MaxConnections, want)
	}
	src.PerListener = 1
	if c, _, err := Load(src); err != nil || c.MaxFlows != 1024-2*20-128-32-8 {
		t.Errorf("with a copy of each socket for an upgrade: %d flows, %v", c.MaxFlows, err)
	}
	src.PerListener = 0
	src.Forwards = append(src.Forwards, ":1-4=127.0.0.1:99")
	c, _, err = Load(src)
	if err != nil {
		t.Fatal(err)
	}
	if half := (1024 - 20 - 4 - 128 - 32 - 8) / 2; c.MaxFlows != half || c.MaxConnections != half/2 {
		t.Errorf("%d flows and %d connections; want %d and %d", c.MaxFlows, c.MaxConnections, half, half/2)
	}
	src.Descriptors = 10_000_000
	if c, _, err = Load(src); err != nil || c.MaxFlows != 100_000 {
		t.Errorf("%d flows with any number of descriptors, %v; want 100000", c.MaxFlows, err)
	}
	src.Descriptors, values[maxFlowsFlag] = 1024, []string{"5000"}
	c, warnings, err = Load(src)
	if most := (1024 - 20 - 4 - 128 - 32 - 8) / 2; err != nil || c.MaxFlows != most || len(warnings) != 1 || !strings.Contains(warnings[0].String(), "--udp-max-flows 5000") {
		t.Errorf("--udp-max-flows 5000: %+v, %v, %v; want a warning", c, warnings, err)
	}
	values[maxFlowsFlag] = []string{"some"}
	if _, _, err = Load(src); err == nil || !strings.Contains(err.Error(), `--udp-max-flows "some"`) {
		t.Errorf("--udp-max-flows some: %v", err)
	}
}

// A TCP and a UDP forward on the same port do not clash.
func TestBothTransports(t *testing.T) {
	c, warnings, err := load([]string{"[::]:53=127.0.0.1:5353", "udp://[::]:53=127.0.0.1:5353", "udp://0.0.0.0:53=127.0.0.1:5353"})
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	for i, want := range []struct {
		name      string
		datagrams bool
		dual      bool
	}{{"[::]:53", false, true}, {"udp://[::]:53", true, false}, {"udp://0.0.0.0:53", true, false}} {
		f := c.Forwards[i]
		if l := f.Listeners[0]; l.Name != want.name || f.Datagrams != want.datagrams || l.DualStack != want.dual {
			t.Errorf("forward %d: %q, datagrams %v, dual stack %v; want %+v", i, l.Name, f.Datagrams, l.DualStack, want)
		}
	}
}

func TestProblems(t *testing.T) {
	one := []string{":1=127.0.0.1:2"}
	for _, tt := range []struct {
		name     string
		forwards []string
		given    []string
		want     string
		hint     string
	}{
		{"no forward", nil, nil, "nothing to forward", "--forward"},
		{"unknown key", []string{":1=127.0.0.1:2?heder-timeout=3s"}, nil, `unknown key "heder-timeout"`, "did you mean ?header-timeout?"},
		{"a key like no other", []string{":1=127.0.0.1:2?qqqqqqqqqq=3s"}, nil, `unknown key "qqqqqqqqqq"`, "the keys are the flags of the groups Trust to Connections"},
		{"a key of the process", []string{":1=127.0.0.1:2?loops=3"}, nil, `unknown key "loops"`, "--loops N"},
		{"a key twice", []string{":1=127.0.0.1:2?headers=1&headers=2"}, nil, "given 2 times", "?headers=2"},
		{"a key without its value", []string{":1=127.0.0.1:2?trust"}, nil, "is empty: the value is RULE", ""},
		{"a wrong word as a key", []string{":1=127.0.0.1:2?local=clse"}, nil, `local "clse" is not one of relay, close`, "?local=close"},
		{"a wrong word as a flag", one, []string{"unknown relai"}, `--unknown "relai" is not one of relay, reject`, "--unknown relay"},
		{"a duration without its unit", one, []string{"header-timeout 5"}, "has no unit", "--header-timeout 5s"},
		{"a header too short", one, []string{"max-header 16"}, "is too short", "--max-header 16KiB"},
		{"no header", one, []string{"headers 0"}, `headers "0" is too low: the minimum is 1`, "--headers 1"},
		{"no version", one, []string{"accept v3"}, "is not v1, v2 or v1,v2", "--accept v1,v2"},
		{"no loop", one, []string{"loops 0"}, `loops "0" is too low: the minimum is 1`, "--loops 1"},
		{"spinning too long", one, []string{"spin 10001us"}, "is too long: the maximum is 10ms", "--spin 10ms"},
		{"spinning too short", one, []string{"spin 1ns"}, "is too short", "--spin 1µs"},
		{"a self-test too often", one, []string{"self-test-interval 100ms"}, "is too short", "--self-test-interval 1s"},
		{"a drain without its unit", one, []string{"drain-timeout 30"}, "has no unit", "--drain-timeout 30s"},
		{"a number of connections", one, []string{"max-connections many"}, "whole number", ""},
		{"a rate without a number", one, []string{"accept-rate fast"}, "is not N or N/BURST", "--accept-rate 100/200"},
		{"a rate too high", one, []string{"accept-rate 100001"}, "from 1 to 100000", ""},
		{"a burst of 0", one, []string{"accept-rate 5/0"}, "needs a rate and a burst from 1 to 100000", "--accept-rate 5/5"},
		{"a rate of 0", one, []string{"accept-rate 0/5"}, "needs a rate and a burst from 1 to 100000", "--accept-rate 1/1"},
		{"no such user", one, []string{"user no-such-user"}, `--user "no-such-user" is not a user, a name of /etc/passwd or UID:GID: `, ""},
		{"a directory in place of the ban file", one, []string{"ban-file /"}, `--ban-file "/" cannot be used: read ban file /: `, ""},
		{"no time for an upgrade", one, []string{"upgrade-timeout 0"}, "is too short: the minimum is 100ms", "--upgrade-timeout 30s"},
		{"an interval too short", one, []string{"reload-interval 1ms"}, "is too short", "--reload-interval 100ms"},
		{"only unix backends", []string{":1=unix:/a?transparent"}, nil, "transparent mode cannot reach", "--transparent off"},
		{"header without destinations", []string{":1=header"}, nil, "needs a list of allowed destinations", "--allow-destination"},
		{"a broken rule", one, []string{"trust 10.0.0.1:80"}, "--trust", ""},
		{"a broken rule of a forward", []string{":1=127.0.0.1:2?trust=ten"}, nil, "trust", ""},
		{"the same listener twice", []string{":1=127.0.0.1:2", ":1=127.0.0.1:3"}, nil, ":1 to 127.0.0.1:2, and :1 to 127.0.0.1:3", ""},
		{"the same listener, written differently", []string{"[::]:1=127.0.0.1:2", ":1=127.0.0.1:3"}, nil, "[::]:1 to 127.0.0.1:2, and :1 to 127.0.0.1:3", ""},
		{"both families and one of them", []string{":1=127.0.0.1:2", "127.0.0.1:1=127.0.0.1:3"}, nil, ":1 and 127.0.0.1:1", "[::]:1"},
		{"an address and its wildcard", []string{"0.0.0.0:1=127.0.0.1:2", "10.0.0.1:1=127.0.0.1:3"}, nil, "use the same address and port", ""},
		{"ranges that overlap", []string{":1-5=127.0.0.1:9", ":5-8=127.0.0.1:9"}, nil, ":5 to 127.0.0.1:9, and :5 to", ""},
		{"the same socket twice", []string{"unix:/a=127.0.0.1:9", "unix:/a=127.0.0.1:8"}, nil, "unix:/a to 127.0.0.1:9, and unix:/a to", ""},
		{"the same socket, written differently", []string{"unix:/a/b=127.0.0.1:9", "unix:/a/../a//b=127.0.0.1:8"}, nil,
			"two forwards have the same listener", ""},
		{"a loop", []string{"127.0.0.1:22=127.0.0.1:22"}, nil, "forwards to itself", ""},
		{"a loop through a wildcard", []string{":22=127.0.0.1:22"}, nil, "forwards to itself", ""},
		{"a loop by name", []string{":22=localhost:22"}, nil, "forwards to itself", ""},
		{"a loop in a range", []string{"127.0.0.1:20-22=10.0.0.1:20-22,127.0.0.1:22"}, nil, "127.0.0.1:22 forwards to itself", ""},
		{"two listeners of UDP", []string{"udp://:1=127.0.0.1:2", "udp://127.0.0.1:1=127.0.0.1:3"}, nil, "udp://:1 and udp://127.0.0.1:1", "[::]:1"},
		{"UDP from a unix socket", []string{"udp://unix:/a=127.0.0.1:2"}, nil, "has a unix socket", "HOST:PORT"},
		{"UDP to a unix socket", []string{"udp://:1=127.0.0.1:2,unix:/a"}, nil, "has a unix socket", "HOST:PORT"},
		{"UDP with version 1 only", []string{"udp://:1=127.0.0.1:2?accept=v1"}, nil, "have version 2", "--accept v1,v2"},
		{"flows without end", []string{"udp://:1=127.0.0.1:2?udp-idle-timeout=0"}, nil, "never end a flow", "?udp-idle-timeout=60s"},
		{"an unknown mode", []string{"udp://:1=127.0.0.1:2"}, []string{"udp-header auto"}, "every, first, spp", ""},
		{"a loop of sockets", []string{"unix:/a=unix:/a"}, nil, "forwards to itself", ""},
		{"a loop of sockets, written differently", []string{"unix:/a/b=unix:/a/./b"}, nil, "forwards to itself", ""},
	} {
		_, _, err := load(tt.forwards, tt.given...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
			continue
		}
		hints := ""
		for _, e := range Leaves(err) {
			var h interface{ Hint() string }
			if errors.As(e, &h) {
				hints += h.Hint() + "\n"
			}
		}
		if !strings.Contains(hints, tt.hint) {
			t.Errorf("%s: hints %q; want %q", tt.name, hints, tt.hint)
		}
	}
}

// A value that is wrong is one problem: validation does not report what it would be
// instead.
func TestEachFaultIsReportedOnce(t *testing.T) {
	for _, given := range []string{
		"headers 0", "headers x", "headers 99", "max-header 1", "header-timeout 5", "backend-check 1", "udp-idle-timeout 0",
		"loops 0", "loops x", "spin 10s", "route-table 254", "rule-preference x", "upgrade-timeout 0", "accept v3",
	} {
		_, _, err := load([]string{":1=192.0.2.1:2", "udp://:1=192.0.2.1:2"}, given)
		if found := Leaves(err); len(found) != 1 {
			t.Errorf("%s: %d problems: %q", given, len(found), found)
		}
	}
}

func TestNoTrustRule(t *testing.T) {
	for _, given := range []Values{{}, {"untrusted": {"pass"}}} {
		_, _, err := Load(Source{Forwards: []string{":1=127.0.0.1:2"}, Settings: given})
		var p *Problem
		if !errors.As(err, &p) || !strings.Contains(p.Error(), "no trust rule") || !strings.Contains(p.Hint(), "--trust 10.0.0.0/8") {
			t.Errorf("without a trust rule and with %v: %v", given, err)
		}
	}
	if _, _, err := Load(Source{Forwards: []string{"unix:/run/a=127.0.0.1:2"}}); err != nil {
		t.Errorf("a unix listener is trusted by its mode: %v", err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, _, err := load([]string{"nonsense", ":1=header", ":2=127.0.0.1:3?lokal=close"}, "local none", "loops x", "trust ten")
	want := []string{
		`--loops "x" is not a whole number`,
		`--local "none" is not one of relay, close`,
		`--forward "nonsense": is not LISTEN=BACKEND`,
		`--trust: "ten" is not a prefix, an address or a preset`,
		`--forward ":2=127.0.0.1:3?lokal=close": unknown key "lokal"`,
		`forward :1: backend "header" needs a list of allowed destinations`,
	}
	got := Leaves(err)
	for _, problem := range want {
		i := slices.IndexFunc(got, func(e error) bool { return strings.Contains(e.Error(), problem) })
		if i < 0 {
			t.Errorf("%q is not reported", problem)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("also reported: %v", errors.Join(got...))
	}
}

func TestBrokenListIsReportedOnce(t *testing.T) {
	_, _, err := load([]string{":1=127.0.0.1:9", ":2=127.0.0.1:9"}, "trust ten")
	if n := len(Leaves(err)); n != 1 {
		t.Errorf("one broken rule, but %d problems:\n%v", n, err)
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		forward string
		given   []string
		want    string // "" is no warning
	}{
		{":1=127.0.0.1:2", nil, ""},
		{":1=127.0.0.1:2?transparent", []string{"source-port any"}, ""},
		{":1=127.0.0.1:2", []string{"trust any"}, "trusts every host"},
		{":1=127.0.0.1:2", []string{"header-timeout 2s"}, "shorter than the 3s"},
		{":1=127.0.0.1:2", []string{"header-timeout 0"}, ""},
		{":1=127.0.0.1:2", []string{"source-port any"}, "--source-port has no effect without --transparent on"},
		{":1=127.0.0.1:2", []string{"self-test-interval 10s"}, "--self-test-interval has no effect without --transparent on"},
		{":1=127.0.0.1:2", []string{"route-table 100"}, "--route-table has no effect without --transparent on or --tproxy"},
		{":1=127.0.0.1:2", []string{"recipe marks"}, "--recipe has no effect without --transparent on or --tproxy"},
		{":1=127.0.0.1:2?transparent", []string{"route-table 100", "rule-preference 5", "route-mark 7", "recipe rules"}, ""},
		{":1=127.0.0.1:2?tproxy&redirect=10.0.0.0/8", []string{"route-table 100"}, ""},
		{"udp://:1=127.0.0.1:2", []string{"max-connections 5"}, "--max-connections has no effect for udp:// forwards"},
		{"udp://:1=127.0.0.1:2", []string{"max-waiting 5"}, "--max-waiting has no effect for udp:// forwards"},
		{":1=127.0.0.1:2", []string{"udp-max-flows 5"}, "--udp-max-flows has no effect without a udp:// forward"},
		{":1=127.0.0.1:2?allow-source=any", nil, "allow-source has no effect without --transparent on"},
		{":1=127.0.0.1:2", []string{"allow-destination 10.0.0.0/8"}, "has no effect without the backend"},
		{":1=127.0.0.1:2?socket-mode=0600", nil, "has no effect without a unix listener"},
		{":1=127.0.0.1:2", []string{"require-checksum on"}, "v1 headers are rejected, because they have none: --accept v2"},
		{":1=127.0.0.1:2?accept=v2", []string{"require-checksum on"}, ""},
		{"udp://:1=127.0.0.1:2", []string{"require-checksum on"}, ""},
		{"unix:/a=127.0.0.1:2", []string{"socket-mode 0666"}, "every user of this host"},
		{":1=127.0.0.1:2", []string{"health-source 10.1.0.0/16"}, "overlaps trust rule"},
		{":1=unix:/a,10.0.0.1:2?transparent", nil, "never uses backends on unix sockets"},
		{":1=127.0.0.1:2?transparent&unknown=relay", nil, "gateway's own address"},
		{":1=127.0.0.1:2?transparent&allow-source=any", nil, "headers may name any source"},
		{":1=header?allow-destination=any", nil, "may name any destination"},
		{"udp://:1=127.0.0.1:2?transparent", []string{"udp-header first", "udp-idle-timeout 60s", "udp-max-flows 5", "max-connections-per-client 3"}, ""},
		{"udp://:1=127.0.0.1:2?udp-header=spp", nil, ""},
		{"udp://:1=127.0.0.1:2?udp-header=first&udp-idle-timeout=30s", nil, "sends no second header"},
		{"udp://:1=127.0.0.1:2", []string{"header-timeout 2s"}, "--header-timeout has no effect for udp:// forwards"},
		{"udp://:1=127.0.0.1:2?idle-timeout=2s", nil, "idle-timeout has no effect for udp:// forwards"},
		{"udp://:1=127.0.0.1:2", []string{"connect-timeout 2s"}, "has no effect for udp://"},
		{"udp://:1=127.0.0.1:2?keepalive=2s", nil, "has no effect for udp://"},
		{"udp://:1=127.0.0.1:2?user-timeout=2s", nil, "has no effect for udp://"},
		{"udp://:1=127.0.0.1:2?v1-mixed-families", nil, "v1-mixed-families has no effect for udp://"},
		{"udp://:1=127.0.0.1:2?v1-ipv4-in-tcp6", nil, "v1-mixed-families has no effect for udp://"},
		{":1=127.0.0.1:2?accept=v2&v1-mixed-families", nil, "has no effect where only v2"},
		{"udp://:1=127.0.0.1:2?max-connections=3", nil, "has no effect for udp://"},
		{"udp://:1=127.0.0.1:2", []string{"socket-mode 0600"}, "has no effect without a unix listener"},
		{"udp://:1=127.0.0.1:2?udp-header=spp&local=close", nil, "local has no effect with the headers of --udp-header spp"},
		{"udp://:1=127.0.0.1:2?udp-header=spp&headers=2", nil, "headers has no effect with"},
		{":1=127.0.0.1:2", []string{"udp-header first"}, "--udp-header has no effect without a udp:// forward"},
		{":1=127.0.0.1:2?udp-max-flows=3", nil, "udp-max-flows has no effect without a udp:// forward"},
	} {
		_, warnings, err := load([]string{tt.forward}, tt.given...)
		if err != nil {
			t.Errorf("%s %v: %v", tt.forward, tt.given, err)
			continue
		}
		if tt.want == "" {
			if len(warnings) != 0 {
				t.Errorf("%s %v warns: %v", tt.forward, tt.given, warnings)
			}
			continue
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0].String(), tt.want) {
			t.Errorf("%s %v warns %v; want one, %q", tt.forward, tt.given, warnings, tt.want)
		}
	}
}

// A forward that cannot be read is one problem: it is not missing as well, and whether
// --redirect has an effect is not known.
func TestBrokenForwardIsOneProblem(t *testing.T) {
	for _, given := range []string{"", "redirect :25"} {
		flags := []string{given}
		if given == "" {
			flags = nil
		}
		_, warnings, err := load([]string{"8443"}, flags...)
		if got := findings(warnings, err); len(got) != 1 || !strings.Contains(got[0], "is not LISTEN=BACKEND") {
			t.Errorf("--%s: %q", given, got)
		}
	}
}

// Warnings are returned beside an error.
func TestWarningsBesideAnError(t *testing.T) {
	_, warnings, err := load([]string{":1=127.0.0.1:2"}, "headers 0", "header-timeout 2s")
	if got := findings(warnings, err); len(got) != 2 || !strings.HasPrefix(got[1], "warning: forward :1: header timeout 2s") {
		t.Errorf("%q", got)
	}
}

// There is a loop for each CPU that the process may use, which nothing here changes.
func TestLoopsByDefault(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	for range 2 {
		if c, _, err := load([]string{":1=127.0.0.1:2"}); err != nil || c.Loops != 3 {
			t.Errorf("with 3 CPUs: %+v, %v", c, err)
		}
	}
}

// A command may say itself what to write if there is no forward.
func TestHintWithoutForwards(t *testing.T) {
	const hint = "unproxy serve --forward SPEC"
	_, warnings, err := Load(Source{EmptyHint: hint})
	if got := findings(warnings, err); len(got) != 1 || got[0] != "there is nothing to forward | "+hint {
		t.Errorf("%q", got)
	}
	if _, _, err := Load(Source{EmptyHint: hint, Forwards: []string{"unix:/a=127.0.0.1:2"}}); err != nil {
		t.Errorf("with a forward: %v", err)
	}
}

// TestValidateByHand validates a Config that was not created by Load.
func TestValidateByHand(t *testing.T) {
	c := &Config{Forwards: []*forward.Forward{{}, {Listeners: []forward.Listener{{Name: ":1"}}}}, Loops: -1}
	_, err := c.Validate()
	for _, want := range []string{"negative", "a forward has no listener", "no trust rule", "at least one header must be stripped", "has no backend"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate does not report %q: %v", want, err)
		}
	}
}

// FuzzLoad passes any text to any setting, as a flag and as a key. Load must not
// panic, and an accepted configuration must be valid.
func FuzzLoad(f *testing.F) {
	for i, s := range Settings() {
		f.Add(i, s.Default)
	}
	f.Add(1, "0x10")
	f.Add(2, "16KiB")
	all := Settings()
	f.Fuzz(func(t *testing.T, which int, value string) {
		s := all[max(0, which%len(all))]
		if s.Name == "trust-file" || strings.Contains(value, "{{") {
			return // reads files, looks at the host
		}
		for _, src := range []Source{
			{Forwards: []string{":1=127.0.0.1:2"}, Settings: Values{"trust": {"10.0.0.0/8"}, s.Name: {value}}},
			{Forwards: []string{":1=127.0.0.1:2?" + s.Name + "=" + value}, Settings: Values{"trust": {"10.0.0.0/8"}}},
		} {
			c, _, err := Load(src)
			if err != nil {
				continue
			}
			if _, err := c.Validate(); err != nil {
				t.Fatalf("%s %q was accepted and is not valid: %v", s.Name, value, err)
			}
		}
	})
}

package attach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPrefixKeys(t *testing.T) {
	for _, s := range []string{"0.0.0.0/0", "10.1.0.0/16", "192.0.2.1/32", "::/0", "2001:db8::/32", "2001:db8::1/128"} {
		p := netip.MustParsePrefix(s)
		k := keyOf(p)
		if got := k.prefix(); got != p {
			t.Errorf("%v came back as %v", p, got)
		}
		if p.Addr().Is4() && (k.Bits < 96 || !netip.AddrFrom16(k.Address).Is4In6()) {
			t.Errorf("%v: key %v is not mapped", p, k)
		}
	}
	if got := keyOf(netip.MustParsePrefix("10.1.2.3/8")).prefix().String(); got != "10.0.0.0/8" {
		t.Errorf("host bits are kept: %s", got)
	}
}

func TestListsOfConfig(t *testing.T) {
	c := ServerConfig{Legacy: true, Ports: []uint16{80, 22, 80},
		From: []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.0.0.0/8")}}
	l := c.lists()
	prefixes, legacy := l.prefixes()
	if !slices.Equal(prefixes, []netip.Prefix{c.From[1], c.From[0]}) || !legacy || !slices.Equal(l.portList(), []uint16{22, 80}) {
		t.Errorf("%v, %v, %v", prefixes, legacy, l.portList())
	}
}

func TestValidate(t *testing.T) {
	from, ports := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, []uint16{22}
	for _, tt := range []struct {
		from  []netip.Prefix
		ports []uint16
		want  string
	}{
		{from, ports, ""},
		{nil, ports, "0 prefixes"},
		{from, nil, "0 ports"},
		{make([]netip.Prefix, maxPrefixes+1), ports, "4097 prefixes"},
		{from, make([]uint16, maxPorts+1), "1025 ports"},
		{[]netip.Prefix{{}}, ports, "invalid prefix"},
		{from, []uint16{0}, "invalid port 0"},
	} {
		err := ServerConfig{From: tt.from, Ports: tt.ports}.validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d prefixes, %d ports: %v, want %q", len(tt.from), len(tt.ports), err, tt.want)
		}
	}
}

// Tables of Debian 12 (unified), of a hybrid hierarchy, of a container, and made up.
func TestMountOf(t *testing.T) {
	for table, want := range map[string]string{
		"": "",
		"24 20 0:22 / /sys rw shared:7 - sysfs sysfs rw\n26 24 0:24 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n": "/sys/fs/cgroup",
		"27 24 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n28 27 0:26 / /sys/fs/cgroup/unified rw shared:9 master:3 - cgroup2 cgroup2 rw\n": "/sys/fs/cgroup/unified",
		"28 27 0:26 / /run/my\\040cgroups rw - cgroup2 none rw\n":                                                                          "/run/my cgroups",
		"27 24 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw\n":                                                                          "",
		"broken\n28 27 - \n": "",
	} {
		if got := mountOf([]byte(table), "cgroup2"); got != want {
			t.Errorf("%q: %q, want %q", table, got, want)
		}
	}
}

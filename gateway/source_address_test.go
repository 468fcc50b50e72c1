package gateway

import (
	"errors"
	"net/netip"
	"testing"
	"testing/fstest"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// A source address must be one of this host: of an interface, or covered by a local route. A
// broadcast address is none. With ip_nonlocal_bind it may come later.
func TestSourceAddressMustBeOwn(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for _, command := range []string{
			"link add back0 type veth peer name back1", "link set back0 up", "address add 10.9.0.7/24 dev back0",
			"-6 address add 2001:db8:9::7/64 dev back0 nodad", "route add local 10.77.0.0/28 dev lo",
			"-6 route add local 2001:db8:77::/120 dev lo",
		} {
			lab.Shell(t, "ip "+command)
		}
		const reachable = ", with the interface in place of lo if other hosts are to reach it"
		for _, tt := range []struct{ flag, error, hint string }{
			{"127.0.0.1", "", ""},
			{"127.1.0.0/28", "", ""},
			{"10.9.0.7", "", ""},
			{"10.77.0.0/28", "", ""},
			{"10.77.0.4", "", ""},
			{"2001:db8:9::7", "", ""},
			{"2001:db8:77::/120", "", ""},
			{"10.9.0.8", "forward 127.0.0.1:0: source address 10.9.0.8 is not an address of this host",
				"assign it: ip address add 10.9.0.8/32 dev lo" + reachable},
			{"10.77.0.0/27", "forward 127.0.0.1:0: source addresses 10.77.0.0/27: 10.77.0.16 is not an address of this host",
				"let this host take the whole prefix: ip route add local 10.77.0.0/27 dev lo"},
			{"2001:db8:9::8", "forward 127.0.0.1:0: source address 2001:db8:9::8 is not an address of this host",
				"assign it: ip address add 2001:db8:9::8/128 dev lo" + reachable},
			{"10.9.0.255", "forward 127.0.0.1:0: source address 10.9.0.255 is a broadcast address",
				"give the addresses without it: --source-address ADDR for each"},
		} {
			g, err := newWithSource(t, tt.flag)
			if tt.error == "" {
				if err != nil {
					t.Errorf("%s: %v", tt.flag, err)
					continue
				}
				start(t, g)
				continue
			}
			e, ok := errors.AsType[*SourceError](err)
			if !ok || err.Error() != tt.error || e.Hint() != tt.hint {
				t.Errorf("%s: %v; want %s", tt.flag, err, tt.error)
			}
		}
		netns.Sysctl(t, "net.ipv4.ip_nonlocal_bind", "1")
		if g, err := newWithSource(t, "10.9.0.8"); err != nil {
			t.Errorf("with ip_nonlocal_bind: %v", err)
		} else {
			start(t, g)
		}
		if _, err := newWithSource(t, "2001:db8:9::8"); err == nil {
			t.Error("ip_nonlocal_bind of IPv4 allows an IPv6 address")
		}
	})
}

func newWithSource(t *testing.T, address string) (*Gateway, error) {
	t.Helper()
	c, _, err := load([]string{"127.0.0.1:0=127.0.0.1:9"}, "loops 1", "source-address "+address)
	if err != nil {
		t.Fatal(err)
	}
	return New(c, Observer{})
}

func TestNonlocalBind(t *testing.T) {
	const v4, v6 = "proc/sys/net/ipv4/ip_nonlocal_bind", "proc/sys/net/ipv6/ip_nonlocal_bind"
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, tt := range []struct {
		files fstest.MapFS
		want  families
	}{
		{fstest.MapFS{}, families{}},
		{fstest.MapFS{v4: file("0\n"), v6: file("0\n")}, families{}},
		{fstest.MapFS{v4: file("1\n"), v6: file("0\n")}, families{v4: true}},
		{fstest.MapFS{v6: file("1\n")}, families{v6: true}},
	} {
		got := nonlocalBind(tt.files)
		if got != tt.want || got.has(netip.IPv6Loopback()) != tt.want.v6 {
			t.Errorf("%v: %+v, want %+v", tt.files, got, tt.want)
		}
	}
}

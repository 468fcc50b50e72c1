package returnpath_test

import (
	"testing"

	"unproxy/transparent/returnpath"
)

// TestCheckDevice checks that only names without a meaning to sh(1), nft(8) and the
// other readers of a plan are accepted.
func TestCheckDevice(t *testing.T) {
	for _, name := range []string{"lo", "eth0", "eth0.100", "br-1a2b", "veth@if2", "wg_0", "ens1f0np0", "p+1", "0", "abcdefghijklmno"} {
		if err := returnpath.CheckDevice(name); err != nil {
			t.Errorf("CheckDevice(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"", "abcdefghijklmnop", "a;id>pwn", ";", "a b", "a\tb", "a\nb", "a$b", "a`b", "a'b", `a"b`, `a\b`,
		"a|b", "a&b", "a*b", "a?b", "a[b", "a#b", "a(b", "a{b", "a<b", "a!b", "a~b", "a%b", "a=b", "a/b", "a:b", "ü", "-a", ".a", "+a", "@a"} {
		if returnpath.CheckDevice(name) == nil {
			t.Errorf("CheckDevice(%q) accepts it", name)
		}
	}
}

// TestSysctl has the spellings of sysctl(8), which takes a dot for a separator.
func TestSysctl(t *testing.T) {
	for device, want := range map[string]string{
		"wg0": "net.ipv4.conf.wg0.rp_filter", "eth0.100": "net/ipv4/conf/eth0.100/rp_filter",
	} {
		if got := returnpath.Sysctl(device, "rp_filter"); got != want {
			t.Errorf("Sysctl(%q) = %q, want %q", device, got, want)
		}
	}
}

// TestOwner checks that the label depends on the backends' names and ports, and not
// on their order or on other backends.
func TestOwner(t *testing.T) {
	named := func(host string, port uint16) returnpath.Target {
		return returnpath.Target{Host: host, Backend: returnpath.Backend{Ports: returnpath.Ports{Low: port, High: port}}}
	}
	fixed := returnpath.Target{Backend: backend("127.0.0.1:22", returnpath.Reach{})}
	owner := func(all ...returnpath.Target) uint8 { return returnpath.Targets{Backends: all}.Owner() }
	if got := owner(fixed); got != returnpath.DefaultOwner {
		t.Errorf("the owner without names is %d", got)
	}
	one := owner(named("a", 1), named("b", 2))
	if other := owner(fixed, named("b", 2), named("a", 1), named("a", 1)); other != one || one == returnpath.DefaultOwner {
		t.Errorf("owners %d and %d, want the same", one, other)
	}
	labels := map[uint8]bool{}
	for port := range uint16(1000) {
		label := owner(named("a", port))
		labels[label] = true
		if !returnpath.IsOwner(label) {
			t.Errorf("%d is no label of an owner", label)
		}
	}
	if len(labels) != 85 || labels[returnpath.DefaultOwner] {
		t.Errorf("%d labels, want 85", len(labels))
	}
}

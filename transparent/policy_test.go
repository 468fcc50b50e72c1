package transparent_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/allocations"
	"unproxy/transparent"
)

var (
	addr = netip.MustParseAddr
	ap   = netip.MustParseAddrPort
)

// set is an Addresses by linear search.
type set []netip.Addr

func (s set) Contains(a netip.Addr) bool { return slices.Contains(s, a) }

const (
	backend4 = "192.0.2.80:25"
	backend6 = "[2001:db8::80]:25"
)

// hostile are the sources that are denied by default, with the reason. "seen as"
// is the source that a backend on loopback sees behind gateways that accept them.
var hostile = []struct{ source, reason string }{
	{"0.0.0.0", "unspecified"}, // seen as 127.0.0.1
	{"0.0.0.1", "unspecified"}, // RFC 791, "this network"
	{"0.255.255.255", "unspecified"},
	{"127.0.0.1", "loopback"},
	{"127.0.0.53", "loopback"}, // systemd-resolved
	{"127.255.255.255", "loopback"},
	{"224.0.0.1", "multicast"}, // seen as 127.0.0.1
	{"239.255.255.255", "multicast"},
	{"255.255.255.255", "broadcast"}, // seen as 127.0.0.1
	{"169.254.0.1", "link-local"},
	{"169.254.169.254", "link-local"}, // cloud metadata services
	{"::", "unspecified"},             // seen as ::1
	{"::1", "loopback"},
	{"ff02::1", "multicast"},
	{"ff05::2", "multicast"},
	{"fe80::1", "link-local"},
	{"febf::1", "link-local"}, // the end of fe80::/10
	{"fe80::1%lo", "address with a zone"},
	{"2001:db8::9%eth0", "address with a zone"},
	{"::127.0.0.1", "IPv4-compatible"}, // RFC 4291 2.5.5.1
	{"::2", "IPv4-compatible"},
	{"::203.0.113.9", "IPv4-compatible"},
	{"::255.255.255.254", "IPv4-compatible"},
	{"::ffff:127.0.0.1", "loopback"}, // unmapped first
	{"::ffff:0.0.0.0", "unspecified"},
	{"::ffff:224.0.0.1", "multicast"},
	{"::ffff:255.255.255.255", "broadcast"},
	{"::ffff:169.254.1.1", "link-local"},
	{"::ffff:127.0.0.1%lo", "loopback"},         // unmapping drops the zone
	{"10.77.0.99", "the gateway's own address"}, // seen as 127.0.0.1
	{"::ffff:10.77.0.99", "the gateway's own address"},
	{"2001:db8::99", "the gateway's own address"},
	{"64:ff9b::127.0.0.1", "NAT64 form of a denied IPv4 address"},
	{"64:ff9b::10.77.0.99", "NAT64 form of a denied IPv4 address"},
	{"64:ff9b::192.0.2.1", "NAT64 form of a denied IPv4 address"}, // the gateway's
	{"192.0.2.1", "the gateway's own address"},
	{"::ffff:192.0.2.1", "the gateway's own address"},
	{"2001:db8::1", "the gateway's own address"},
	{"192.0.2.80", "the backend's own address"},
	{"::ffff:192.0.2.80", "the backend's own address"},
	{"2001:db8::80", "the backend's own address"},
}

var (
	own      = set{addr("192.0.2.1"), addr("2001:db8::1")}
	replaced = set{addr("10.77.0.99"), addr("2001:db8::99")}
)

func backends() []netip.AddrPort {
	return []netip.AddrPort{ap(backend4), ap(backend6), ap("[::ffff:192.0.2.80]:25"), {}}
}

func TestChooseDenies(t *testing.T) {
	for _, tt := range hostile {
		source := addr(tt.source)
		for _, backend := range backends() {
			if tt.reason == "the backend's own address" && source.Unmap() != backend.Addr().Unmap() {
				continue
			}
			for m := transparent.Reject; m <= transparent.Carry; m++ {
				p := transparent.Policy{FamilyMismatch: m, Own: own, Replaced: replaced}
				got := p.Choose(netip.AddrPortFrom(source, 4711), backend)
				want := transparent.Choice{Rejection: transparent.SourceDenied, Reason: tt.reason}
				if got != want {
					t.Errorf("%v: Choose(%v, %v) = %+v, want %+v", m, source, backend, got, want)
				}
			}
		}
	}
}

// neverUsed are the reasons for denying addresses that no kernel connects from, even
// if a socket is bound to them.
var neverUsed = []string{"unspecified", "multicast", "broadcast"}

// Allow permits denied sources, except those of which the kernel would make 127.0.0.1.
func TestChooseAllow(t *testing.T) {
	for _, tt := range hostile {
		source := addr(tt.source)
		backend := ap(backend4)
		if source.Unmap().Is6() {
			backend = ap(backend6)
		}
		p := transparent.Policy{Own: own, Replaced: replaced, Allow: set{source.Unmap(), source.Unmap().WithZone("")}}
		got := p.Choose(netip.AddrPortFrom(source, 4711), backend)
		want := transparent.Choice{Source: netip.AddrPortFrom(source.Unmap(), 4711), Transparent: true}
		switch {
		case source.Unmap().Zone() != "":
			want = transparent.Choice{Rejection: transparent.SourceDenied, Reason: "address with a zone"}
		case slices.Contains(neverUsed, tt.reason), replaced.Contains(source.Unmap()):
			want = transparent.Choice{Rejection: transparent.SourceDenied, Reason: tt.reason}
		case netip.MustParsePrefix("fe80::/10").Contains(source):
			want = transparent.Choice{Rejection: transparent.SourceDenied, Reason: "needs an interface"}
		}
		if got != want {
			t.Errorf("allowed: Choose(%v, %v) = %+v, want %+v", source, backend, got, want)
		}
	}
}

// A connection from the backend's own address and port would be one to itself
// (RFC 9293, section 3.5), allowed or not; other ports of the address are allowed.
func TestChooseBackendItself(t *testing.T) {
	for _, backend := range []string{backend4, backend6} {
		to := ap(backend)
		p := transparent.Policy{Allow: set{to.Addr()}}
		want := transparent.Choice{Rejection: transparent.SourceDenied, Reason: "the backend's own address and port"}
		if got := p.Choose(to, to); got != want {
			t.Errorf("Choose(%v, itself) = %+v, want %+v", to, got, want)
		}
		if got := p.Choose(netip.AddrPortFrom(to.Addr(), to.Port()+1), to); !got.Transparent {
			t.Errorf("another port: %+v", got)
		}
	}
}

func TestChooseInvalid(t *testing.T) {
	p := transparent.Policy{Allow: set{{}}}
	want := transparent.Choice{Rejection: transparent.SourceDenied, Reason: "invalid address"}
	if got := p.Choose(netip.AddrPort{}, ap(backend4)); got != want {
		t.Errorf("Choose = %+v, want %+v", got, want)
	}
}

func TestChoose(t *testing.T) {
	type policy = transparent.Policy
	rejected := func(reason string) transparent.Choice {
		return transparent.Choice{Rejection: transparent.FamilyMismatched, Reason: reason}
	}
	from := func(s string) transparent.Choice {
		return transparent.Choice{Source: ap(s), Transparent: true}
	}
	mapped := func(s string) transparent.Choice {
		return transparent.Choice{Source: ap(s), Transparent: true, Mapped: true}
	}
	for _, tt := range []struct {
		name            string
		policy          policy
		client, backend string
		want            transparent.Choice
	}{
		{"IPv4", policy{}, "203.0.113.9:4711", backend4, from("203.0.113.9:4711")},
		{"IPv6", policy{}, "[2001:db8::9]:4711", backend6, from("[2001:db8::9]:4711")},
		{"next to a denied range", policy{}, "1.0.0.0:1", backend4, from("1.0.0.0:1")},
		{"next to a denied range", policy{}, "126.255.255.255:1", backend4, from("126.255.255.255:1")},
		{"next to a denied range", policy{}, "128.0.0.0:1", backend4, from("128.0.0.0:1")},
		{"next to a denied range", policy{}, "169.253.255.255:1", backend4, from("169.253.255.255:1")},
		{"next to a denied range", policy{}, "223.255.255.255:1", backend4, from("223.255.255.255:1")},
		{"next to a denied range", policy{}, "240.0.0.0:1", backend4, from("240.0.0.0:1")},
		{"next to a denied range", policy{}, "255.255.255.254:1", backend4, from("255.255.255.254:1")},
		{"next to a denied range", policy{}, "[::1:0:0]:1", backend6, from("[::1:0:0]:1")},
		{"next to a denied range", policy{}, "[fec0::]:1", backend6, from("[fec0::]:1")},
		{"private address", policy{}, "10.0.0.9:1", backend4, from("10.0.0.9:1")},
		{"4-in-6 client", policy{}, "[::ffff:203.0.113.9]:4711", backend4, from("203.0.113.9:4711")},
		{"4-in-6 backend", policy{}, "203.0.113.9:4711", "[::ffff:192.0.2.80]:25", from("203.0.113.9:4711")},
		{"port of the backend", policy{}, "203.0.113.9:25", backend4, from("203.0.113.9:25")},

		{"prefer keeps 0", policy{}, "203.0.113.9:0", backend4, from("203.0.113.9:0")},
		{"keep", policy{SourcePort: transparent.Keep}, "203.0.113.9:80", backend4, from("203.0.113.9:80")},
		{"keep keeps 0", policy{SourcePort: transparent.Keep}, "203.0.113.9:0", backend4, from("203.0.113.9:0")},
		{"any", policy{SourcePort: transparent.Any}, "203.0.113.9:4711", backend4, from("203.0.113.9:0")},
		{"any, mapped", policy{SourcePort: transparent.Any, FamilyMismatch: transparent.Map}, "203.0.113.9:4711", backend6,
			mapped("[64:ff9b::203.0.113.9]:0")},

		{"reject", policy{}, "203.0.113.9:4711", backend6, rejected("IPv4 client, IPv6 backend")},
		{"reject", policy{}, "[2001:db8::9]:4711", backend4, rejected("IPv6 client, IPv4 backend")},
		{"reject, 4-in-6 client", policy{}, "[::ffff:203.0.113.9]:4711", backend6, rejected("IPv4 client, IPv6 backend")},
		{"plain", policy{FamilyMismatch: transparent.Plain}, "203.0.113.9:4711", backend6, transparent.Choice{}},
		{"plain, same family", policy{FamilyMismatch: transparent.Plain}, "203.0.113.9:4711", backend4,
			from("203.0.113.9:4711")},
		{"map", policy{FamilyMismatch: transparent.Map}, "203.0.113.9:4711", backend6, mapped("[64:ff9b::203.0.113.9]:4711")},
		{"map", policy{FamilyMismatch: transparent.Map}, "[2001:db8::9]:4711", backend4, mapped("244.171.149.255:4711")},
		{"map, same family", policy{FamilyMismatch: transparent.Map}, "203.0.113.9:4711", backend4, from("203.0.113.9:4711")},
		{"carry", policy{FamilyMismatch: transparent.Carry}, "203.0.113.9:4711", backend6, from("203.0.113.9:4711")},
		{"carry", policy{FamilyMismatch: transparent.Carry}, "[2001:db8::9]:4711", backend4, from("[2001:db8::9]:4711")},
		{"carry, same family", policy{FamilyMismatch: transparent.Carry}, "203.0.113.9:4711", backend4, from("203.0.113.9:4711")},
		{"carry, any port", policy{FamilyMismatch: transparent.Carry, SourcePort: transparent.Any}, "203.0.113.9:4711", backend6,
			from("203.0.113.9:0")},
		{"stand-in is the gateway's address", policy{FamilyMismatch: transparent.Map, Own: set{addr("64:ff9b::203.0.113.9")}},
			"203.0.113.9:4711", backend6,
			transparent.Choice{Rejection: transparent.SourceDenied, Reason: "the gateway's own address"}},
		{"stand-in is the backend's address", policy{FamilyMismatch: transparent.Map}, "203.0.113.9:4711",
			"[64:ff9b::203.0.113.9]:25",
			transparent.Choice{Rejection: transparent.SourceDenied, Reason: "the backend's own address"}},
	} {
		if got := tt.policy.Choose(ap(tt.client), ap(tt.backend)); got != tt.want {
			t.Errorf("%s: Choose(%s, %s) = %+v, want %+v", tt.name, tt.client, tt.backend, got, tt.want)
		}
	}
}

func TestChooseInvalidBackend(t *testing.T) {
	for m, want := range map[transparent.FamilyMismatch]transparent.Rejection{
		transparent.Reject: transparent.FamilyMismatched,
		transparent.Plain:  transparent.None,
		transparent.Map:    transparent.FamilyMismatched,
		transparent.Carry:  transparent.FamilyMismatched,
	} {
		p := transparent.Policy{FamilyMismatch: m}
		for _, client := range []string{"203.0.113.9:1", "[2001:db8::9]:1"} {
			if got := p.Choose(ap(client), netip.AddrPort{}); got.Rejection != want || got.Transparent {
				t.Errorf("%v: Choose(%s, invalid) = %+v, want rejection %d", m, client, got, want)
			} else if named := got.Reason == "the backend has no IP address"; named != (want != transparent.None) {
				t.Errorf("%v: Choose(%s, invalid) has the reason %q", m, client, got.Reason)
			}
		}
	}
}

func TestChooseDoesNotAllocate(t *testing.T) {
	o, err := transparent.NewOwnAddresses(func() (transparent.HostAddresses, error) {
		return transparent.HostAddresses{Own: prefixes("192.0.2.1/32", "2001:db8::1/128")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p := transparent.Policy{FamilyMismatch: transparent.Map, Own: o, Replaced: o.Replaced()}
	var clients []netip.AddrPort
	for _, s := range []string{
		"203.0.113.9:1", "[2001:db8::9]:1", "[::ffff:203.0.113.9]:1", "127.0.0.1:1", "192.0.2.1:1",
		"[64:ff9b::127.0.0.1]:1", "[64:ff9b:1::203.0.113.9]:1",
	} {
		clients = append(clients, ap(s))
	}
	backends := backends()
	n := allocations.PerRun(100, func() {
		for _, c := range clients {
			for _, b := range backends {
				p.Choose(c, b)
			}
		}
	})
	if n != 0 {
		t.Errorf("Choose allocates %v times", n)
	}
}

// TestStandIn pins the stand-ins: operators put them in access lists, so a
// release must not change them.
func TestStandIn(t *testing.T) {
	for client, want := range map[string]string{
		"203.0.113.9":          "64:ff9b::cb00:7109", // RFC 6052, 2.4
		"::ffff:203.0.113.9":   "64:ff9b::cb00:7109",
		"2001:db8::9":          "244.171.149.255",
		"2001:db8::a":          "244.171.216.22",
		"2606:4700:4700::1111": "250.117.241.196",
		"2001:db8::2f:f668":    "255.255.255.254",
		"2001:db8::75b:9cf0":   "255.255.255.254", // its hash is the broadcast address
	} {
		if got := new(transparent.Policy).StandIn(addr(client)); got != addr(want) {
			t.Errorf("StandIn(%s) = %v, want %s", client, got, want)
		}
	}
}

// A prefix replaces that of IPv4 clients alone.
func TestStandInBehindAPrefix(t *testing.T) {
	p := transparent.Policy{MapPrefix: netip.MustParsePrefix("2001:db8:64:1:2:3::/96")}
	for client, want := range map[string]string{
		"203.0.113.9":        "2001:db8:64:1:2:3:cb00:7109",
		"::ffff:203.0.113.9": "2001:db8:64:1:2:3:cb00:7109",
		"2001:db8::9":        "244.171.149.255",
	} {
		if got := p.StandIn(addr(client)); got != addr(want) {
			t.Errorf("StandIn(%s) = %v, want %s", client, got, want)
		}
	}
}

// A header that names the stand-in of a denied IPv4 address is denied like that address, and a client
// whose stand-in is the backend's or the gateway's own address is, too.
func TestMapPrefixIsNoWayToADeniedSource(t *testing.T) {
	const prefix = "2001:db8:64::"
	for _, tt := range []struct{ client, backend, reason string }{
		{prefix + "127.0.0.1", backend6, "stand-in of a denied IPv4 address"},
		{prefix + "0.0.0.0", backend6, "stand-in of a denied IPv4 address"},
		{prefix + "224.0.0.1", backend6, "stand-in of a denied IPv4 address"},
		{prefix + "169.254.169.254", backend6, "stand-in of a denied IPv4 address"},
		{prefix + "192.0.2.1", backend6, "stand-in of a denied IPv4 address"}, // the gateway's
		{prefix + "203.0.113.9", backend6, ""},
		{"2001:db8:65::127.0.0.1", backend6, ""}, // behind another prefix
		{"127.0.0.1", backend6, "loopback"},
		{"203.0.113.9", "[" + prefix + "203.0.113.9]:25", "the backend's own address"},
		{"203.0.113.9", backend6, ""},
	} {
		p := transparent.Policy{
			FamilyMismatch: transparent.Map, MapPrefix: netip.MustParsePrefix(prefix + "/96"), Own: own, Replaced: replaced,
		}
		got := p.Choose(netip.AddrPortFrom(addr(tt.client), 4711), ap(tt.backend))
		if got.Reason != tt.reason || (got.Rejection == transparent.SourceDenied) != (tt.reason != "") {
			t.Errorf("Choose(%s, %s) = %+v, want %q", tt.client, tt.backend, got, tt.reason)
		}
		if p.Allow = (set{addr(tt.client)}); p.Choose(netip.AddrPortFrom(addr(tt.client), 4711), ap(tt.backend)).Reason != "" &&
			addr(tt.client).Is6() && tt.client != prefix+"0.0.0.0" {
			t.Errorf("%s is denied although it is allowed", tt.client)
		}
	}
}

func TestCheckMapPrefix(t *testing.T) {
	for text, want := range map[string]string{
		"64:ff9b::/96":      "",
		"2001:db8:64::/96":  "",
		"fd00:64::/96":      "",
		"64:ff9b:1::/96":    "",
		"64:ff9b::/95":      "is not an IPv6 prefix of 96 bits",
		"64:ff9b::/128":     "is not an IPv6 prefix of 96 bits",
		"64:ff9b::1/96":     "is not an IPv6 prefix of 96 bits",
		"10.0.0.0/8":        "is not an IPv6 prefix of 96 bits",
		"::ffff:0.0.0.0/96": "is IPv4-mapped",
		"::/96":             "consists of IPv4-compatible addresses",
		"fe80::/96":         "consists of link-local addresses",
		"ff0e::/96":         "consists of multicast addresses",
	} {
		got := transparent.CheckMapPrefix(netip.MustParsePrefix(text))
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("CheckMapPrefix(%s) = %q, want %q", text, got, want)
		}
	}
}

// standInByLibrary is StandIn for IPv6 with package hash/fnv.
func standInByLibrary(a netip.Addr) netip.Addr {
	h := fnv.New64a()
	b := a.As16()
	h.Write(b[:])
	var folded uint64
	for sum := h.Sum64(); sum > 0; sum >>= 28 {
		folded ^= sum & (1<<28 - 1)
	}
	var v4 [4]byte
	binary.BigEndian.PutUint32(v4[:], uint32(0xf<<28|min(folded, 1<<28-2)))
	return netip.AddrFrom4(v4)
}

// FuzzChoose checks that no policy without Allow returns a denied source, and that
// every source returned can be bound.
func FuzzChoose(f *testing.F) {
	for _, tt := range hostile {
		a := addr(tt.source)
		b := a.As16()
		f.Add(b[:], uint16(4711), byte(0), byte(transparent.Map), true)
		f.Add(a.AsSlice(), uint16(0), byte(transparent.Any), byte(transparent.Reject), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, port uint16, ports, mismatch byte, v6 bool) {
		client, _ := netip.AddrFromSlice(raw)
		backend := ap(backend4)
		if v6 {
			backend = ap(backend6)
		}
		p := transparent.Policy{
			SourcePort:     transparent.SourcePort(ports % 3),
			FamilyMismatch: transparent.FamilyMismatch(mismatch % 3),
			Own:            own,
			Replaced:       replaced,
		}
		got := p.Choose(netip.AddrPortFrom(client, port), backend)
		if got != p.Choose(netip.AddrPortFrom(client.Unmap(), port), backend) {
			t.Errorf("Choose(%v) differs from Choose(%v)", client, client.Unmap())
		}
		if mustDeny(client.Unmap(), backend.Addr()) != (got.Rejection == transparent.SourceDenied) {
			t.Errorf("Choose(%v, %v) = %+v", client, backend, got)
		}
		if got.Rejection != transparent.None && (got.Reason == "" || got.Transparent) {
			t.Errorf("Choose(%v, %v) = %+v: a rejection has a reason and nothing else", client, backend, got)
		}
		source := got.Source.Addr()
		if !got.Transparent {
			if got.Source.IsValid() || got.Mapped {
				t.Errorf("Choose(%v, %v) = %+v: a source, but not transparent", client, backend, got)
			}
			return
		}
		if source.Is4() != backend.Addr().Is4() || source.Is4In6() || mustDeny(source, backend.Addr()) {
			t.Errorf("Choose(%v, %v) = %+v", client, backend, got)
		}
		if got.Mapped && source.Is4() && source != standInByLibrary(client) {
			t.Errorf("StandIn(%v) = %v, by the library %v", client, source, standInByLibrary(client))
		}
	})
}

// mustDeny is Policy.denied by prefixes alone.
func mustDeny(a, backend netip.Addr) bool {
	if !a.IsValid() || a == backend || own.Contains(a) || replaced.Contains(a) {
		return true
	}
	if slices.ContainsFunc(embedded(a), func(v4 netip.Addr) bool { return mustDeny(v4, backend) }) {
		return true
	}
	for _, p := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
		"::/96", "fe80::/10", "ff00::/8",
	} {
		if netip.MustParsePrefix(p).Contains(a) {
			return true
		}
	}
	return false
}

// The values are written as the flags have them; others show their number.
func TestStrings(t *testing.T) {
	for value, want := range map[fmt.Stringer]string{
		transparent.Prefer: "prefer", transparent.Keep: "keep", transparent.Any: "any", transparent.SourcePort(3): "invalid(3)",
		transparent.Reject: "reject", transparent.Plain: "plain", transparent.Map: "map", transparent.Carry: "carry",
		transparent.FamilyMismatch(4): "invalid(4)", transparent.SourcePort(7): "invalid(7)",
	} {
		if got := value.String(); got != want {
			t.Errorf("%#v is %q, want %q", value, got, want)
		}
	}
}

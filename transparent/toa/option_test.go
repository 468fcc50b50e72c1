package toa_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"unproxy/transparent/toa"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	client4 = netip.MustParseAddrPort("203.0.113.9:4711")
	client6 = netip.MustParseAddrPort("[2001:db8::9]:4711")
)

// The bytes on the wire. Those of the legacy formats are struct toa_data of the kernel modules.
func TestOptionBytes(t *testing.T) {
	for _, row := range []struct {
		client netip.AddrPort
		format toa.Format
		want   string
	}{
		{client4, toa.Negotiated, "fe 0a 5550 1267 cb007109"},
		{client6, toa.Negotiated, "fe 16 5550 1267 20010db8000000000000000000000009"},
		{netip.MustParseAddrPort("[::ffff:203.0.113.9]:4711"), toa.Negotiated, "fe 0a 5550 1267 cb007109"},
		{client4, toa.Unasked, "fe 0a 5550 1267 cb007109"},
		{client4, toa.Legacy, "fe 08 1267 cb007109"},
		{client6, toa.Legacy, "fd 14 1267 20010db8000000000000000000000009"},
	} {
		if got := toa.Append([]byte{1}, row.client, row.format); !bytes.Equal(got, unhex(t, "01"+row.want)) {
			t.Errorf("%v, %v: % x, want 01 %s", row.client, row.format, got, row.want)
		}
	}
	if got := toa.AppendOffer(nil); !bytes.Equal(got, unhex(t, "fe 04 5550")) {
		t.Errorf("the offer is % x", got)
	}
}

// Which of several options counts.
func TestFind(t *testing.T) {
	const v4, old4 = "fe 0a 5550 1267 cb007109", "fe 08 1267 cb007108"
	const old6 = "14 1267 20010db8000000000000000000000009"
	for _, row := range []struct {
		name, options string
		strict        string // without the legacy formats
		legacy        string
	}{
		{"none", "", "", ""},
		{"IPv4", v4, "203.0.113.9:4711", "203.0.113.9:4711"},
		{"IPv6", "fe 16 5550 1267 20010db8000000000000000000000009", "[2001:db8::9]:4711", "[2001:db8::9]:4711"},
		{"mapped: as it is", "fe 16 5550 1267 00000000000000000000ffffcb007109", "[::ffff:203.0.113.9]:4711",
			"[::ffff:203.0.113.9]:4711"},
		{"after timestamps", "01 01 080a 00000001 00000002" + v4, "203.0.113.9:4711", "203.0.113.9:4711"},
		{"padded", v4 + "01 01", "203.0.113.9:4711", "203.0.113.9:4711"},
		{"after the end", "00" + v4, "", ""},
		{"the offer alone", "fe 04 5550", "", ""},
		{"the first counts, and is an offer", "fe 04 5550" + v4, "", ""},
		{"the first counts", v4 + "fe 0a 5550 0001 01020304", "203.0.113.9:4711", "203.0.113.9:4711"},
		{"another experiment before it", "fe 0a 5551 1267 cb007109" + v4, "203.0.113.9:4711", "203.0.113.9:4711"},
		{"too short for an identifier", "fe 02" + v4, "", ""},
		{"too short for an identifier, legacy", "fe 03 55" + old4, "", "203.0.113.8:4711"},
		{"kind 253", "fd 0a 5550 1267 cb007109", "", ""},
		{"a byte too long", "fe 0b 5550 1267 cb007109 00", "", ""},
		{"cut off", "fe 0a 5550 1267 cb0071", "", ""},
		{"length 0", "fe 00 5550", "", ""},
		{"length 1", "08 01" + v4, "", ""},
		{"no length", "fe", "", ""},
		{"legacy IPv4", old4, "", "203.0.113.8:4711"},
		{"legacy IPv6", "fd" + old6, "", "[2001:db8::9]:4711"},
		{"legacy IPv6, kind 254", "fe" + old6, "", "[2001:db8::9]:4711"},
		{"legacy, port 21840 looks like the identifier", "fe 08 5550 cb007108", "", "203.0.113.8:21840"},
		{"legacy and ours", old4 + v4, "203.0.113.9:4711", "203.0.113.9:4711"},
	} {
		for _, legacy := range []bool{false, true} {
			want := row.strict
			if legacy {
				want = row.legacy
			}
			got, found := toa.Find(unhex(t, row.options), legacy)
			if found != (want != "") || found && got.String() != want {
				t.Errorf("%s, legacy %v: %v, %v, want %q", row.name, legacy, got, found, want)
			}
		}
	}
}

// naiveFind tries every offset and keeps those that a walk from the start reaches.
func naiveFind(b []byte, legacy bool) (client netip.AddrPort, found bool) {
	starts := map[int]bool{0: true}
	var options [][]byte
	for i := range b {
		switch {
		case !starts[i] || b[i] == 0:
		case b[i] == 1:
			starts[i+1] = true
		case i+1 < len(b) && b[i+1] >= 2 && i+int(b[i+1]) <= len(b):
			starts[i+int(b[i+1])] = true
			options = append(options, b[i:i+int(b[i+1])])
		}
	}
	parse := func(b []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(b[2:])
		return netip.AddrPortFrom(a, uint16(b[0])<<8|uint16(b[1]))
	}
	for _, o := range options {
		if o[0] == 254 && (len(o) < 4 || bytes.HasPrefix(o[2:], []byte("UP"))) {
			if len(o) == 10 || len(o) == 22 {
				return parse(o[4:]), true
			}
			break
		}
	}
	for _, o := range options {
		if legacy && (o[0] == 254 && len(o) == 8 || len(o) == 20 && (o[0] == 253 || o[0] == 254)) {
			return parse(o[2:]), true
		}
	}
	return netip.AddrPort{}, false
}

// Find never panics and agrees with a naive implementation, and what Append writes is found.
func FuzzFind(f *testing.F) {
	for _, s := range []string{"", "fe0a55501267cb007109", "fe0455500101080a0000000100000002", "fe085550cb007108",
		"fd14126720010db8000000000000000000000009", "fe1655501267000000000000000000000000cb007109"} {
		f.Add(unhex(f, s), false)
		f.Add(unhex(f, s), true)
	}
	f.Fuzz(func(t *testing.T, options []byte, legacy bool) {
		got, found := toa.Find(options, legacy)
		want, wanted := naiveFind(options, legacy)
		if got != want || found != wanted {
			t.Fatalf("% x: %v, %v, want %v, %v", options, got, found, want, wanted)
		}
		if !found || got.Addr().Is4In6() {
			return
		}
		for _, format := range []toa.Format{toa.Negotiated, toa.Legacy} {
			again, ok := toa.Find(toa.Append(nil, got, format), format == toa.Legacy)
			if !ok || again != got {
				t.Fatalf("%v in format %v is read as %v, %v", got, format, again, ok)
			}
		}
	})
}

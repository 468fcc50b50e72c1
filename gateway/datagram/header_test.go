package datagram

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// The peer's class decides before anything is read.
func TestPeerClassDecides(t *testing.T) {
	trusted, other := only(lb), unknown
	rows := []struct {
		name   string
		change func(*forward.Forward)
		from   netip.AddrPort
		data   string
		sent   []string // what the backend receives
		drop   Drop
	}{
		{"trusted", nil, lb, a + "x", []string{"x"}, 0},
		{"untrusted", nil, other, a + "x", nil, Untrusted},
		{"untrusted, passed", func(f *forward.Forward) { f.PassUntrusted = true }, other, a + "x", []string{a + "x"},
			0},
		{"passed, empty datagram", func(f *forward.Forward) { f.PassUntrusted = true }, other, "", []string{""}, 0},
		{"passed, header on the first datagram",
			func(f *forward.Forward) { f.PassUntrusted, f.DatagramHeader = true, forward.FirstDatagram }, other, a + "x", []string{a + "x"}, 0},
		{"from port 0, which cannot be replied to", nil, netip.AddrPortFrom(lb.Addr(), 0), a + "x", nil,
			PeerUnreachable},
		{"a health source", func(f *forward.Forward) { f.Health = only(lb) }, lb, a + "x", nil, Health},
		{"an untrusted health source", func(f *forward.Forward) { f.Health = only(other) }, other, "ping", nil, Health},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(server)
			f.Trust = trusted
			if row.change != nil {
				row.change(f)
			}
			r := one(t, f)
			r.from(row.from, row.data)
			if row.drop != 0 {
				if n := len(r.backs()); n != 0 {
					t.Errorf("%d flows, want 0", n)
				}
				r.dropped(map[Drop]uint64{row.drop: 1})
				return
			}
			r.back().took(t, row.sent...)
			r.dropped(nil)
		})
	}
}

// A datagram's own header decides whether it is forwarded. A dropped datagram is counted and has no
// other effect.
func TestHeaderAcceptsOrDropsItsDatagram(t *testing.T) {
	short := a[:len(a)-1]
	broken := []byte(v2(clientA, dest4, proxyproto.TLV{Type: proxyproto.TypeCRC32C, Value: []byte{1, 2, 3, 4}}))
	rows := []struct {
		name   string
		change func(*forward.Forward)
		data   string
		want   string // the payload
		drop   Drop
	}{
		{"with payload", nil, a + "payload", "payload", 0},
		{"an empty payload", nil, a, "", 0},
		{"payload that looks like a header", nil, a + b, b, 0},
		{"TLVs", nil, v2(clientA, dest4, proxyproto.TLV{Type: 0xf0, Value: []byte("x")}) + "y", "y", 0},
		{"IPv6", nil, v2(client6, dest6) + "y", "y", 0},
		{"no header", nil, "payload", "", NotProxy},
		{"empty", nil, "", "", Malformed},
		{"version 1", nil, "PROXY UDP4 203.0.113.9 192.0.2.80 4711 53\r\nx", "", NotProxy},
		{"version 1 as for TCP", nil, "PROXY TCP4 203.0.113.9 192.0.2.80 4711 53\r\nx", "", NotProxy},
		{"cut short", nil, short, "", Malformed},
		{"only the signature", nil, proxyproto.Signature, "", Malformed},
		{"a length beyond the datagram", nil, proxyproto.Signature + "\x21\x12\xff\xff" + strings.Repeat("x", 12), "", Malformed},
		{"a length of 0", nil, proxyproto.Signature + "\x21\x12\x00\x00" + "GET / HTTP/1.1\r\n", "", Malformed},
		{"longer than allowed", func(f *forward.Forward) { f.Header.MaxLength = 27 }, a, "", TooLong},
		{"an undefined command", nil, proxyproto.Signature + "\x22\x12\x00\x00", "", Unsupported},
		{"a wrong checksum", nil, string(broken), "", BadChecksum},
		{"missing a required checksum", func(f *forward.Forward) { f.Header.RequireChecksum = true }, a, "",
			BadChecksum},
		{"version 2 not accepted", func(f *forward.Forward) { f.Header.RefuseV2 = true }, a, "", Unsupported},
		{"LOCAL", nil, local + "check", "check", 0},
		{"LOCAL from AWS, with TLVs in place of addresses", nil,
			proxyproto.Signature + "\x20\x11\x00\x54\x03\x00\x04\xbc\xe5\x95\x1f\x04\x00\x4a" + strings.Repeat("\x00", 74) + "check", "check", 0},
		{"LOCAL, dropped by --local close", func(f *forward.Forward) { f.CloseLocal = true }, local + "check", "",
			Local},
		{"UNSPEC", nil, proxyproto.Signature + "\x21\x00\x00\x00" + "x", "x", 0},
		{"UNSPEC, refused by configuration", func(f *forward.Forward) { f.RejectUnknown = true },
			proxyproto.Signature + "\x21\x00\x00\x00" + "x", "", NoAddress},
		{"TCP addresses do not count", func(f *forward.Forward) { f.RejectUnknown = true },
			strings.Replace(a, "\x21\x12", "\x21\x11", 1) + "x", "", NoAddress},
		{"two headers", func(f *forward.Forward) { f.Headers = 2 }, b + a + "x", "x", 0},
		{"LOCAL ends a stack", func(f *forward.Forward) { f.Headers = 2 }, local + "check", "check", 0},
		{"LOCAL ends a stack, dropped by --local close",
			func(f *forward.Forward) { f.Headers, f.CloseLocal = 2, true }, local + "check", "", Local},
		{"LOCAL ends a stack, followed by a header", func(f *forward.Forward) { f.Headers = 2 }, local + a + "x",
			a + "x", 0},
		{"LOCAL ends a stack, first", func(f *forward.Forward) { first(f); f.Headers = 2 }, local + "check", "check", 0},
		{"UNSPEC does not end a stack", func(f *forward.Forward) { f.Headers, f.RejectUnknown = 2, true },
			proxyproto.Signature + "\x21\x00\x00\x00" + a + "x", "x", 0},
		{"UNSPEC and no second header", func(f *forward.Forward) { f.Headers = 2 },
			proxyproto.Signature + "\x21\x00\x00\x00", "", Malformed},
		{"LOCAL without a required checksum", func(f *forward.Forward) { f.Header.RequireChecksum = true },
			local + "check", "", BadChecksum},
		{"LOCAL with a checksum", func(f *forward.Forward) { f.Header.RequireChecksum = true }, summedLocal() + "check", "check", 0},
		{"LOCAL with a wrong checksum", func(f *forward.Forward) { f.Header.RequireChecksum = true },
			strings.Replace(summedLocal(), "\x03\x00\x04", "\x03\x00\x04\x00", 1)[:23] + "check", "", BadChecksum},
		{"the last of two is LOCAL", func(f *forward.Forward) { f.Headers, f.CloseLocal = 2, true }, a + local + "x", "", Local},
		{"one header of two", func(f *forward.Forward) { f.Headers = 2 }, a + "x", "", NotProxy},
		{"Simple Proxy Protocol", simple, spp(clientA, dest4) + "x", "x", 0},
		{"Simple Proxy Protocol, empty", simple, spp(clientA, dest4), "", 0},
		{"Simple Proxy Protocol, cut short", simple, spp(clientA, dest4)[:37], "", NotProxy},
		{"Simple Proxy Protocol, another magic number", simple, "\x56\xed" + spp(clientA, dest4)[2:], "", NotProxy},
		{"PROXY where Simple Proxy Protocol is expected", simple, a + strings.Repeat("x", 40), "", NotProxy},
		{"Simple Proxy Protocol where PROXY is expected", nil, spp(clientA, dest4) + "x", "", NotProxy},
		{"first without a header", first, "payload", "", NoFlow},
		{"first, empty", first, "", "", NoFlow},
		{"first, cut short", first, short, "", Malformed},
		{"first, with payload", first, a + "payload", "payload", 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(server, server6)
			if row.change != nil {
				row.change(f)
			}
			r := one(t, f)
			r.from(lb, row.data)
			if row.drop != 0 {
				r.dropped(map[Drop]uint64{row.drop: 1})
				r.clean()
				return
			}
			r.dropped(nil)
			r.back().took(t, row.want)
		})
	}
}

// summedLocal returns a LOCAL header with a checksum.
func summedLocal() string {
	h, err := proxyproto.AppendV2(nil, &proxyproto.Message{Checksum: true})
	if err != nil {
		panic(err)
	}
	return string(h)
}

// A sender may put a header on the first datagram only, as Cloudflare documents for Spectrum
// (version 2 over UDP) and as frp does.
func TestHeaderOnFirstDatagramOnly(t *testing.T) {
	r := one(t, with(plain(server), first))
	r.from(lb, a+"one", "two", "", "three")
	s := r.back()
	s.took(t, "one", "two", "", "three")
	r.answer(s, "yes")
	r.went(to(lb, "yes"))

	// The sender begins the flow again, and a client that repeats its header
	// gains nothing.
	r.from(lb, a+"four")
	s.took(t, "four")
	// A datagram that starts like a header but is invalid is dropped.
	r.from(lb, proxyproto.Signature+"\x21\x12\x00\x01x")
	s.took(t)
	r.dropped(map[Drop]uint64{Malformed: 1})
	r.from(lb, "five")
	s.took(t, "five")
}

// A sender may put the header into a datagram of its own, as Xray does. In mode first it names the
// client and is not forwarded. As a control, in other modes, and in mode first without a header, an
// empty payload is forwarded as an empty datagram.
func TestHeaderOnlyDatagramIsNotForwarded(t *testing.T) {
	for _, row := range []struct {
		name  string
		mode  func(*forward.Forward)
		sends []string
		want  []string
	}{
		{"first, then payload", first, []string{a, "one", "two"}, []string{"one", "two"}},
		{"first, alone", first, []string{a}, nil},
		{"first, repeated", first, []string{a + "one", a, "two"}, []string{"one", "two"}},
		{"first, empty datagrams without a header", first, []string{a, "", "one", ""}, []string{"", "one", ""}},
		{"every", func(*forward.Forward) {}, []string{a, a + "one"}, []string{"", "one"}},
		{"spp", simple, []string{spp(clientA, dest4), spp(clientA, dest4) + "one"}, []string{"", "one"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := one(t, with(plain(server), row.mode))
			for _, datagram := range row.sends {
				r.from(lb, datagram)
			}
			s := r.back()
			s.took(t, row.want...)
			r.answer(s, "yes")
			if row.name == "spp" {
				return // its replies carry a header
			}
			r.went(to(lb, "yes"))
			r.dropped(nil)
		})
	}
}

// A header-only datagram opens a flow like any other: it counts, expires when idle, and its header
// stays valid as long.
func TestHeaderOnlyDatagramOpensAFlow(t *testing.T) {
	r := one(t, with(plain(server), first))
	r.from(lb, a)
	r.pass(29 * time.Second)
	r.from(lb, b)
	if c := r.ended(1, record.OK, record.Peer); c.Client != clientA || c.DatagramsIn != 0 || c.BytesIn != 0 {
		t.Errorf("recorded %+v", c)
	}
	r.dropped(map[Drop]uint64{OtherClient: 1})
	r.clean()
}

// In an active flow, a header that names another client may have been sent by the client itself.
// The gateway ends the flow and does not accept the header.
func TestFirstRejectsAnotherClient(t *testing.T) {
	r := one(t, with(plain(server), first))
	r.from(lb, a+"one")
	r.pass(29 * time.Second)
	r.from(lb, b+"I am another")
	r.ended(1, record.OK, record.Peer)
	r.from(lb, "and go on")
	r.dropped(map[Drop]uint64{OtherClient: 1, NoFlow: 1})
	r.clean()

	// Another destination and LOCAL count as another client.
	r.from(lb, a+"one")
	r.from(lb, v2(clientA, dest4b()))
	r.ended(2, record.OK, record.Peer)
	r.dropped(map[Drop]uint64{OtherClient: 2, NoFlow: 1})
	r.from(lb, a+"one")
	r.from(lb, local)
	r.ended(3, record.OK, record.Peer)
	r.dropped(map[Drop]uint64{OtherClient: 3, NoFlow: 1})
	r.clean()
}

// A sender forgets a silent flow and may reuse its socket for another client. Replies do not end
// the silence.
func TestFirstAcceptsAnotherClientAfterSilence(t *testing.T) {
	r := one(t, with(plain(server), first))
	r.from(lb, a+"one")
	s := r.back()
	r.pass(15 * time.Second)
	r.answer(s, "still here")
	r.pass(15 * time.Second)
	r.from(lb, b+"hello")
	if c := r.ended(1, record.OK, record.Peer); c.Client != clientA {
		t.Errorf("the flow of %v ended, want %v's", c.Client, clientA)
	}
	r.back().took(t, "hello")
	r.from(lb, "more")
	r.back().took(t, "more")
	r.dropped(nil)
}

// The record of a flow has the command of its header, and LOCAL is counted apart.
func TestCommandIsReported(t *testing.T) {
	for _, tt := range []struct {
		name, data, command string
		change              func(*forward.Forward)
	}{
		{"client", a + "x", "proxy", nil},
		{"client, first", a + "x", "proxy", first},
		{"LOCAL", local + "x", "local", nil},
		{"LOCAL, first", local + "x", "local", first},
		{"UNSPEC", proxyproto.Signature + "\x21\x00\x00\x00" + "x", "unknown", nil},
		{"Simple Proxy Protocol", spp(clientA, dest4) + "x", "", simple},
		{"an untrusted peer", "x", "", func(f *forward.Forward) { f.PassUntrusted, f.Trust = true, only(unknown) }},
	} {
		f := plain(server)
		if tt.change != nil {
			tt.change(f)
		}
		r := one(t, f)
		r.from(lb, tt.data)
		r.pass(2 * f.FlowTimeout)
		if c := r.last(1); c.Command.String() != tt.command {
			t.Errorf("%s: command %q, want %q", tt.name, c.Command, tt.command)
		}
		var want [record.NumOutcomes]uint64
		if tt.command == "local" {
			want[record.OK] = 1
		}
		if got := r.worker().lists[0].tally.Local; got != want {
			t.Errorf("%s: counted as LOCAL %v, want %v", tt.name, got, want)
		}
	}
}

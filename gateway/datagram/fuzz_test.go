package datagram

import (
	"bytes"
	"strings"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
)

// fuzzMode feeds a gateway of one mode two arbitrary datagrams of a trusted peer. It must not
// panic, must forward or count each datagram, must forward suffixes of what it received, and must
// not keep references to the receive buffer.
func fuzzMode(f *testing.F, mode forward.DatagramHeader, expect func(t *testing.T, datagrams, sent []string)) {
	for _, seed := range []string{a + "x", b, local + "x", "", "payload", a + a, proxyproto.Signature, spp(clientA, dest4) + "x",
		proxyproto.Signature + "\x21\x12\xff\xff", v2(client6, dest6) + "x", a[:20], "PROXY TCP4 1.1.1.1 2.2.2.2 1 22\r"} {
		f.Add([]byte(seed), []byte("more"))
		f.Add([]byte(a), []byte(seed))
		f.Add([]byte(spp(clientA, dest4)), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		if len(one) > slotSize || len(two) > slotSize {
			return
		}
		r := newRig(t, 1, Config{}, with(plain(server, server6), func(f *forward.Forward) { f.DatagramHeader = mode }))
		datagrams := []string{string(one), string(two)}
		for _, d := range datagrams {
			r.from(lb, d)
			clear(r.worker().fromPeers.buffer[:2*slotStride])
		}
		var sent []string
		for _, s := range r.sockets[1:] {
			sent = append(sent, texts(s.sent)...)
		}
		c := r.relay.Counters()
		dropped := uint64(0)
		for _, n := range c.Dropped {
			dropped += n
		}
		// In mode first, a header without payload is neither forwarded nor dropped.
		consumed := 0
		for i, d := range datagrams {
			payload, ok := decodes(d)
			refused := i == 1 && c.Dropped[OtherClient] > 0 // the only reason to drop a valid header
			if ok && payload == "" && mode == forward.FirstDatagram && !refused {
				consumed++
			}
		}
		if int(c.DatagramsIn+dropped)+consumed != 2 || len(sent) != int(c.DatagramsIn) {
			t.Fatalf("%d datagrams forwarded, %d dropped, %d consumed, %d sent of 2", c.DatagramsIn, dropped, consumed, len(sent))
		}
		for _, text := range sent {
			if !strings.HasSuffix(datagrams[0], text) && !strings.HasSuffix(datagrams[1], text) {
				t.Fatalf("sent %q, which is no suffix of %q", text, datagrams)
			}
		}
		expect(t, datagrams, sent)
	})
}

// decodes is what package proxyproto says of a datagram.
func decodes(d string) (payload string, ok bool) {
	h, err := proxyproto.Decode([]byte(d), &proxyproto.Options{Datagram: true})
	if err != nil {
		return "", false
	}
	return d[h.Length:], true
}

// In mode every exactly the payloads of whole headers are passed on.
func FuzzEvery(f *testing.F) {
	fuzzMode(f, forward.EveryDatagram, func(t *testing.T, datagrams, sent []string) {
		n := 0
		for _, d := range datagrams {
			if _, ok := decodes(d); ok {
				n++
			}
		}
		if n != len(sent) {
			t.Fatalf("%d of %q carry a header, %d were passed on", n, datagrams, len(sent))
		}
	})
}

// In mode first nothing is passed on before a header has come.
func FuzzFirst(f *testing.F) {
	fuzzMode(f, forward.FirstDatagram, func(t *testing.T, datagrams, sent []string) {
		payload, begins := decodes(datagrams[0])
		_, second := decodes(datagrams[1])
		want := 2
		if payload == "" {
			want = 1
		}
		switch {
		case begins && !startsWithHeader([]byte(datagrams[1])) && len(sent) != want:
			t.Fatalf("sent %q: payload %q of a flow was not forwarded", sent, datagrams[1])
		case !begins && !second && len(sent) != 0:
			t.Fatalf("forwarded %q without a header", sent)
		}
	})
}

// In mode spp exactly what begins with the 38 bytes is passed on, less these.
func FuzzSimple(f *testing.F) {
	fuzzMode(f, forward.SimpleProxy, func(t *testing.T, datagrams, sent []string) {
		var want []string
		for _, d := range datagrams {
			if len(d) >= SPPLength && d[:2] == "\x56\xec" {
				want = append(want, d[SPPLength:])
			}
		}
		if len(want) != len(sent) {
			t.Fatalf("forwarded %q, want %q", sent, want)
		}
	})
}

// What is written is read again, and what is read is written the same, but for
// which of an address's two forms it had.
func FuzzSPP(f *testing.F) {
	f.Add([]byte(spp(clientA, dest4)))
	f.Add([]byte(spp(client6, dest6) + "x"))
	f.Add([]byte("\x56\xec"))
	f.Fuzz(func(t *testing.T, data []byte) {
		client, proxy, ok := DecodeSPP(data)
		if !ok {
			if len(data) >= SPPLength && data[0] == 0x56 && data[1] == 0xec {
				t.Fatal("a header that was written is refused")
			}
			return
		}
		if again := AppendSPP(nil, client, proxy); !bytes.Equal(again, data[:SPPLength]) {
			t.Fatalf("%x reads as %v and %v, which writes as %x", data[:SPPLength], client, proxy, again)
		}
	})
}

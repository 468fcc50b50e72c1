package proxyproto

import (
	"bufio"
	"bytes"
	"errors"
	"net/netip"
	"testing"

	oracle "github.com/pires/go-proxyproto"
)

func options(bits byte) *Options {
	o := &Options{
		RefuseV1:        bits&1 != 0,
		RefuseV2:        bits&2 != 0,
		RequireChecksum: bits&4 != 0,
		MixedFamilies:   bits&8 != 0,
		Datagram:        bits&16 != 0,
	}
	if bits&32 != 0 {
		o.MaxLength = 64
	}
	return o
}

func addVectors(f *testing.F, add func([]byte)) {
	for _, v := range vectors(f) {
		if b := v.bytes(f); len(b) < 2048 {
			add(b)
		}
	}
}

func FuzzDecode(f *testing.F) {
	addVectors(f, func(b []byte) { f.Add(b, byte(0)); f.Add(b, byte(8+16)) })
	f.Fuzz(func(t *testing.T, b []byte, bits byte) {
		o := options(bits)
		h, err := Decode(b, o)
		if err != nil {
			checkRefusal(t, b, o, err)
			return
		}
		if h.Result == Incomplete {
			if h.Version != 0 || h.Length != 0 || o.Datagram {
				t.Fatalf("incomplete: %+v", h)
			}
			return
		}
		if h.Length < 1 || h.Length > len(b) || h.Version < 1 || h.Version > 2 {
			t.Fatalf("%d bytes: %+v", len(b), h)
		}
		whole, err := Decode(b[:h.Length:h.Length], o)
		if err != nil || whole.Source != h.Source || !bytes.Equal(whole.TLVs, h.TLVs) {
			t.Fatalf("%+v; without the payload: %+v, %v", h, whole, err)
		}
		if !o.Datagram {
			for n := range min(h.Length, 256) {
				checkIncomplete(t, b[:n], o)
			}
			checkIncomplete(t, b[:h.Length-1], o)
		}
		checkEncoding(t, h, o)
	})
}

// checkRefusal checks that the refusal comes at its offset, not a byte earlier,
// and does not depend on later bytes.
func checkRefusal(t *testing.T, b []byte, o *Options, err error) {
	var e, again *Error
	if !errors.As(err, &e) || e.Offset > len(b) || e.Reason == 0 || e.Reason >= reasons {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
	if at := e.Locate(b); at >= e.Offset || at < 0 && e.Offset > 0 {
		t.Fatalf("%v: the fault is at %d", e, at)
	}
	if o.Datagram {
		return
	}
	if _, err := Decode(b[:e.Offset], o); !errors.As(err, &again) || *again != *e {
		t.Fatalf("%v; its first %d bytes: %v", e, e.Offset, err)
	}
	checkIncomplete(t, b[:e.Offset-1], o)
}

func checkIncomplete(t *testing.T, b []byte, o *Options) {
	if h, err := Decode(b, o); err != nil || h.Result != Incomplete {
		t.Fatalf("the first %d bytes: %v, %v, want incomplete", len(b), h.Result, err)
	}
}

// checkEncoding encodes an accepted header and decodes the result.
func checkEncoding(t *testing.T, h Header, o *Options) {
	if h.Result != Proxy {
		if h.Source.IsValid() || h.Destination.IsValid() {
			t.Fatalf("%v with addresses: %+v", h.Result, h)
		}
		return
	}
	var b []byte
	if h.Version == 1 {
		b = AppendV1(nil, h.Source, h.Destination)
	} else {
		m := Message{Command: CommandProxy, Source: h.Source, Destination: h.Destination, Datagram: o.Datagram}
		for tlv := range All(h.TLVs) {
			m.TLVs = append(m.TLVs, tlv)
		}
		b = mustV2(t, m)
	}
	again, err := Decode(b, o)
	if err != nil || unmap(again.Source) != unmap(h.Source) || unmap(again.Destination) != unmap(h.Destination) ||
		!bytes.Equal(again.TLVs, h.TLVs) {
		t.Fatalf("%+v; encoded and decoded: %+v, %v", h, again, err)
	}
}

func FuzzTLVs(f *testing.F) {
	f.Add([]byte{2, 0, 3, 'a', 'b', 'c', 4, 0, 0})
	f.Add([]byte{0x20, 0, 9, 1, 0, 0, 0, 0, 0x21, 0, 1, 'x'})
	f.Add([]byte{2, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, region []byte) {
		var rebuilt []byte
		var err error
		for tlv := range All(region) {
			if rebuilt, err = appendTLVs(rebuilt, []TLV{tlv}); err != nil {
				t.Fatal(err)
			}
			if first, ok := Find(region, tlv.Type); !ok || len(first) > len(region) {
				t.Fatalf("Find(%v) = %d bytes, %v", tlv.Type, len(first), ok)
			}
			ParseSSL(tlv.Value)
		}
		if !bytes.HasPrefix(region, rebuilt) {
			t.Fatalf("walked %x as %x", region, rebuilt)
		}
		if _, reason := checkTLVs(region, region); reason == 0 && len(rebuilt) != len(region) {
			t.Fatalf("checked a region of %d bytes and walked %d of them", len(region), len(rebuilt))
		}
	})
}

// FuzzAgainstGoProxyproto compares the decoder with go-proxyproto where that
// follows the specification: version 1 lines that arrive in one read, and
// version 2 headers of INET and INET6 over STREAM. Elsewhere it differs by
// design, so these are not compared: LOCAL with an undefined family, UNSPEC,
// unix sockets, and headers beyond its limit of 4096 bytes. It does not check
// TLVs, nor bare CR and LF in a line whose rest it ignores, so headers refused
// for those are not compared either.
func FuzzAgainstGoProxyproto(f *testing.F) {
	addVectors(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		h, err := Decode(b, nil)
		theirs, theirErr := oracle.Read(bufio.NewReaderSize(bytes.NewReader(b), 8192))
		if err == nil && h.Result == Proxy {
			if theirErr != nil {
				t.Fatalf("%q: ours %+v, theirs %v", b, h, theirErr)
			}
			source, destination := theirAddresses(theirs)
			if unmap(source) != unmap(h.Source) || unmap(destination) != unmap(h.Destination) ||
				theirs.Version != h.Version {
				t.Fatalf("%q: ours %v to %v, theirs %v to %v", b, h.Source, h.Destination, source, destination)
			}
			return
		}
		if theirErr != nil || theirs.Command != oracle.PROXY || !isStream(theirs.TransportProtocol) {
			return
		}
		if e := refusal(t, err); !isBeyondOracle(e.Reason) {
			t.Fatalf("%q: ours %v, theirs %+v", b, err, theirs)
		}
	})
}

func isStream(p oracle.AddressFamilyAndProtocol) bool {
	return p == oracle.TCPv4 || p == oracle.TCPv6
}

func isBeyondOracle(r Reason) bool {
	switch r {
	case ReasonStrayBytes, ReasonTLVOverrun, ReasonUniqueID, ReasonSSLShort,
		ReasonChecksumLength, ReasonChecksumTwice, ReasonChecksumWrong:
		return true
	}
	return false
}

func theirAddresses(h *oracle.Header) (source, destination netip.AddrPort) {
	from, to, ok := h.TCPAddrs()
	if !ok {
		return source, destination
	}
	return from.AddrPort(), to.AddrPort()
}

// go-proxyproto must decode what we encode, including TLVs.
func TestOracleDecodesOurHeaders(t *testing.T) {
	v2 := mustV2(t, Message{
		Command: CommandProxy, Source: client6, Destination: service6, TLVs: []TLV{authority}, Checksum: true,
	})
	for _, b := range [][]byte{v2, AppendV1(nil, client6, service6)} {
		h, err := oracle.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if source, destination := theirAddresses(h); source != client6 || destination != service6 {
			t.Errorf("%q: %v to %v", b, source, destination)
		}
	}
	h, err := oracle.Read(bufio.NewReader(bytes.NewReader(v2)))
	if err != nil {
		t.Fatal(err)
	}
	tlvs, err := h.TLVs()
	if err != nil || len(tlvs) != 2 || string(tlvs[0].Value) != "example.com" {
		t.Errorf("TLVs %v, %v", tlvs, err)
	}
}

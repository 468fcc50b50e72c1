package proxyproto

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"testing"
)

// vector is one row of testdata/vectors.json: a header and the result that the
// specification requires, written by hand. The headers are the specification's
// examples, test data of other projects, captures, and our own.
type vector struct {
	Name   string
	Hex    string
	Kind   string
	Expect struct {
		Outcome      string
		Version      uint8
		Src, Dst     string
		Sport, Dport uint16
		TLVs         []struct {
			Type byte
			Hex  string
		}
		Consumed  int
		Reason    string
		DecidedBy int `json:"decided_by"`
	}
}

// vectors reads testdata/vectors.json, or the file that UNPROXY_VECTORS names.
func vectors(t testing.TB) []vector {
	path := os.Getenv("UNPROXY_VECTORS")
	if path == "" {
		path = "testdata/vectors.json"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if len(all) == 0 {
		t.Fatalf("%s: no vectors", path)
	}
	return all
}

func (v *vector) bytes(t testing.TB) []byte {
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return b
}

func (v *vector) options() *Options { return &Options{Datagram: v.Kind == "udp"} }

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			b := v.bytes(t)
			h, err := Decode(b, v.options())
			v.check(t, b, h, err)
		})
	}
}

// check compares the result for b, which may be a prefix of the vector's bytes.
func (v *vector) check(t *testing.T, b []byte, h Header, err error) {
	t.Helper()
	want := &v.Expect
	if want.Outcome == "error" {
		v.checkRefusal(t, b, h, err)
		return
	}
	if err != nil {
		t.Fatalf("Decode(%d bytes) = %v, want %s", len(b), err, want.Outcome)
	}
	if h.Result.String() != want.Outcome || h.Version != want.Version || h.Length != want.Consumed {
		t.Fatalf("Decode(%d bytes) = %v version %d length %d, want %s version %d length %d",
			len(b), h.Result, h.Version, h.Length, want.Outcome, want.Version, want.Consumed)
	}
	checkAddress(t, "source", h.Source, want.Src, want.Sport)
	checkAddress(t, "destination", h.Destination, want.Dst, want.Dport)
	i := 0
	for tlv := range All(h.TLVs) {
		if i >= len(want.TLVs) || byte(tlv.Type) != want.TLVs[i].Type || hex.EncodeToString(tlv.Value) != want.TLVs[i].Hex {
			t.Fatalf("TLV %d = 0x%02x %.40x, want %.40v", i, byte(tlv.Type), tlv.Value, want.TLVs)
		}
		i++
	}
	if i != len(want.TLVs) {
		t.Fatalf("%d TLVs, want %d", i, len(want.TLVs))
	}
}

func (v *vector) checkRefusal(t *testing.T, b []byte, h Header, err error) {
	t.Helper()
	want := &v.Expect
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("Decode(%d bytes) = %v, want error %q", len(b), h.Result, want.Reason)
	}
	if e.Reason.String() != want.Reason {
		t.Errorf("refused with %q, want %q", e.Reason, want.Reason)
	}
	if want.DecidedBy > 0 && e.Offset != want.DecidedBy {
		t.Errorf("refused after %d bytes, want %d", e.Offset, want.DecidedBy)
	}
	if h.Result != Incomplete || h.Length != 0 {
		t.Errorf("Decode returned an error and a header: %+v", h)
	}
}

func checkAddress(t *testing.T, what string, got netip.AddrPort, want string, port uint16) {
	t.Helper()
	if want == "" {
		if got.IsValid() {
			t.Errorf("%s %v, want none", what, got)
		}
		return
	}
	if got != netip.AddrPortFrom(netip.MustParseAddr(want), port) {
		t.Errorf("%s %v, want %s port %d", what, got, want, port)
	}
}

// TestVectorsInPieces decodes every prefix of every vector. Before the deciding
// byte the result must be incomplete, and from there on it must not change. This
// covers one byte at a time and every split in two.
func TestVectorsInPieces(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Kind == "udp" {
			continue
		}
		b := v.bytes(t)
		decided := v.Expect.Consumed
		switch v.Expect.Outcome {
		case "error":
			decided = v.Expect.DecidedBy
		case "incomplete":
			decided = len(b) + 1
		}
		t.Run(v.Name, func(t *testing.T) {
			for n := range len(b) + 1 {
				h, err := Decode(b[:n:n], nil)
				if n >= decided {
					v.check(t, b[:n], h, err)
					continue
				}
				if err != nil || h.Result != Incomplete || h.Version != 0 || h.Length != 0 {
					t.Fatalf("Decode(%d bytes) = %+v, %v, want incomplete until %d", n, h, err, decided)
				}
			}
		})
	}
}

package integration_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// vector is a row of the decoder's test table. The README beside the table describes its
// fields.
type vector struct {
	Name, Hex, Kind string
	Expect          struct {
		Outcome, Reason, Src string
		Sport                uint16
		Version, Consumed    int
	}
}

func (v *vector) bytes() []byte {
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		panic(v.Name + ": " + err.Error())
	}
	return b
}

// vectors returns the rows for TCP with one of the outcomes.
func vectors(t *testing.T, outcomes ...string) []vector {
	t.Helper()
	text, err := os.ReadFile("../gateway/proxyproto/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all, chosen []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		for _, outcome := range outcomes {
			if v.Kind == "tcp" && v.Expect.Outcome == outcome {
				chosen = append(chosen, v)
			}
		}
	}
	if len(chosen) == 0 {
		t.Fatalf("no vector has outcome %q", outcomes)
	}
	return chosen
}

// outcomeOf maps the decoder's reason for a refusal to the outcome, if that is not
// "malformed".
var outcomeOf = map[string]string{
	"no PROXY signature":             "not_proxy",
	"v2 signature":                   "not_proxy",
	"CRC32C mismatch":                "bad_checksum",
	"v2 version":                     "unsupported",
	"v2 command":                     "unsupported",
	"v2 address family":              "unsupported",
	"v2 transport":                   "unsupported",
	"no CRLF in the first 107 bytes": "too_long",
}

// burst is the number of refusals of a kind per second that the gateway logs without
// omitting any. One gateway gets at most that many vectors.
const burst = 10

// Each invalid header is refused, and the backend gets no connection:
//
//	peer ──bad header──▶ gateway :2000 ──✗ backend :3000
func TestBadHeadersDoNotReachTheBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		for some := range slices.Chunk(vectors(t, "error"), burst) {
			g := strictGateway(t)
			for _, v := range some {
				conn := lab.Dial(t, g.Address(t, 0))
				conn.Write(v.bytes()) // can fail if the gateway is faster
				wantEnd(t, conn)
				outcome, ok := outcomeOf[v.Expect.Reason]
				if !ok {
					outcome = "malformed"
				}
				t.Log(v.Name)
				g.NextConnection(t).Expect(t, "outcome", outcome, "phase", "header", "by", "peer",
					"reason", v.Expect.Reason, "backend", "", "client", "")
			}
		}
		if n := backend.Accepted(); n != 0 {
			t.Errorf("%d connections to the backend, want none", n)
		}
	})
}

// An incomplete header is refused when the connection ends, not before:
//
//	peer ──half a header, FIN──▶ gateway :2000 ──✗ backend :3000
func TestTruncatedHeaderIsRefusedAtEOF(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		for some := range slices.Chunk(vectors(t, "incomplete"), burst) {
			g := strictGateway(t)
			for _, v := range some {
				conn := lab.Send(t, g.Address(t, 0), v.bytes())
				conn.CloseWrite()
				wantEnd(t, conn)
				outcome := "truncated"
				if v.Hex == "" {
					outcome = "empty"
				}
				t.Log(v.Name)
				line := g.NextConnection(t)
				line.Expect(t, "outcome", outcome, "phase", "header", "by", "peer")
				if outcome == "truncated" {
					line.Expect(t, "offset", strconv.Itoa(len(v.bytes())))
				}
			}
		}
		if n := backend.Accepted(); n != 0 {
			t.Errorf("%d connections to the backend, want none", n)
		}
	})
}

// strictGateway starts a gateway without limits on the length and time of headers.
func strictGateway(t *testing.T) *lab.Gateway {
	t.Helper()
	return lab.StartGateway(t, "--forward", "127.0.0.1:0=127.0.0.1:3000", "--trust", "127.0.0.1",
		"--max-header", "65551", "--header-timeout", "0")
}

// The bytes after a valid header arrive unchanged, whether the header arrives in one
// piece or byte by byte, and even if they are another header:
//
//	peer ──header, payload──▶ gateway :2000 ──payload──▶ backend :3000
func TestPayloadAfterHeaderIsUnchanged(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t,
			"--max-header", "65551")
		for _, v := range vectors(t, "proxy", "local", "unknown") {
			header, payload := v.bytes()[:v.Expect.Consumed], v.bytes()[v.Expect.Consumed:]
			payload = append(payload, lab.V1(client4, dest4)...)
			for _, pieces := range [][][]byte{{append(header, payload...)}, append(single(header), payload)} {
				if len(pieces) > 300 {
					continue
				}
				conn := lab.Send(t, "127.0.0.1:2000", pieces...)
				conn.CloseWrite()
				behind := backend.Next(t)
				if got, err := io.ReadAll(behind); err != nil || !bytes.Equal(got, payload) {
					t.Errorf("%s in %d pieces: the backend got %.200q and %v, want %.200q", v.Name, len(pieces), got, err, payload)
				}
				behind.Close()
				wantClosed(t, conn)
				t.Log(v.Name)
				g.NextConnection(t).Expect(t, "outcome", "ok", "phase", "relay", "version", strconv.Itoa(v.Expect.Version),
					"client", v.client(conn), "bytes_in", strconv.Itoa(len(payload)), "bytes_out", "0")
			}
		}
	})
}

// single returns b as slices of one byte each.
func single(b []byte) [][]byte {
	var all [][]byte
	for i := range b {
		all = append(all, b[i:i+1])
	}
	return all
}

// client returns the client that the log must have for v on conn: the source in the
// header, or the peer if there is none.
func (v *vector) client(conn net.Conn) string {
	if v.Expect.Outcome != "proxy" {
		return conn.LocalAddr().String()
	}
	source := netip.MustParseAddr(v.Expect.Src).Unmap()
	return net.JoinHostPort(source.String(), strconv.Itoa(int(v.Expect.Sport)))
}

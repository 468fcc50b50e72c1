package decode

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/proxyproto"
)

const v1Line = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"

// runDecode runs "unproxy decode" and returns its output and error.
func runDecode(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := usage.NewApp(&cli.Command{Name: "unproxy", Subcommands: []*cli.Command{Command()}})
	app.Reader = strings.NewReader(stdin)
	app.Writer, app.ErrWriter = &out, &out
	err := app.Run(append([]string{"unproxy", "decode"}, args...))
	return out.String(), err
}

func header(t *testing.T, m proxyproto.Message) string {
	t.Helper()
	b, err := proxyproto.AppendV2(nil, &m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func proxyMessage(tlvs ...proxyproto.TLV) proxyproto.Message {
	return proxyproto.Message{
		Command: proxyproto.CommandProxy, TLVs: tlvs,
		Source: netip.MustParseAddrPort("192.0.2.1:56324"), Destination: netip.MustParseAddrPort("198.51.100.2:443"),
	}
}

func mustSSL(t *testing.T) proxyproto.TLV {
	t.Helper()
	tlv, err := proxyproto.SSLTLV(proxyproto.SSL{Client: 3},
		proxyproto.TLV{Type: proxyproto.TypeSSLVersion, Value: []byte("TLSv1.3")},
		proxyproto.TLV{Type: proxyproto.TypeSSLCommonName, Value: []byte("me\x1b[31m")})
	if err != nil {
		t.Fatal(err)
	}
	return tlv
}

func TestDecodeText(t *testing.T) {
	rich := proxyMessage(
		proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("a\nb\xff")},
		proxyproto.TLV{Type: proxyproto.TypeAWS, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
		proxyproto.TLV{Type: proxyproto.TypeAzure, Value: []byte{1, 0x78, 0x56, 0x34, 0x12}},
		proxyproto.TLV{Type: proxyproto.TypeGCP, Value: []byte{0, 0, 0, 0, 0, 0, 1, 0}},
		proxyproto.TLV{Type: proxyproto.TypeNOOP, Value: make([]byte, 4)},
		mustSSL(t),
	)
	rich.Checksum = true
	plain := header(t, proxyMessage())
	for _, row := range []struct {
		name, stdin string
		args        []string
		fails       bool
		want        []string
	}{
		{"v1", v1Line + "GET /", nil, false, []string{
			"result       proxy\n", "version      1\n", "source       192.0.2.1:56324\n", "destination  198.51.100.2:443\n",
			"length       45 bytes\n", `payload      5 bytes "GET /"`}},
		{"v2 with everything", header(t, rich), nil, false, []string{
			"protocol     0x11 INET STREAM\n", "checksum     CRC32C correct\n",
			`tlv          0x02 AUTHORITY, 4 bytes: "a\nb\xff"`,
			`tlv          0xea AWS, 23 bytes: VPC endpoint "vpce-08d2bf15fac5001c9"`,
			"tlv          0xee AZURE, 5 bytes: private endpoint LINKID 305419896\n",
			"tlv          0xe0 GCP, 8 bytes: Private Service Connect connection 256\n",
			"tlv          0x04 NOOP, 4 bytes: padding\n",
			"client over TLS, certificate on this connection, verify 0, authenticated\n",
			`               0x21 SSL_VERSION, 7 bytes: "TLSv1.3"`,
			`               0x22 SSL_CN, 7 bytes: "me\x1b[31m"`,
			"payload      0 bytes\n"}},
		{"a certificate that was not verified", "", []string{"--hex", "0d0a0d0a000d0a515549540a 2111 0026 c0000201c6336402dc0401bb" +
			"200017 07 00000012 210007544c5376312e33 220005616c696365"}, false,
			[]string{"verify 18, not authenticated\n", `0x22 SSL_CN, 5 bytes: "alice"`}},
		{"LOCAL", header(t, proxyproto.Message{}), nil, false, []string{"result       local (", "checksum     not checked"}},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", nil, false, []string{"result       unknown ("}},
		{"no checksum", plain, nil, false, []string{"checksum     none\n"}},
		{"hex on standard input", hex.EncodeToString([]byte(plain)) + "\n", nil, false, []string{"result       proxy\n"}},
		{"hex as people write it", "", []string{"--hex", "0x0d,0x0a 0d:0a:00:0d 0a515549540a\n" + `\x21\x11` + " 000C c0000201 c6336402 dc04 01bb"}, false,
			[]string{"source       192.0.2.1:56324\n"}},
		{"hex, taken as bytes", hex.EncodeToString([]byte(plain)), []string{"--raw"}, true, []string{"reason       no PROXY signature\n"}},
		{"nothing", "", nil, true, []string{"result       incomplete\n", "missing      at least 15 bytes after 0\n"}},
		{"incomplete", plain[:20], nil, true, []string{"missing      at least 8 bytes after 20\n"}},
		{"refused text", "PROXY TCP4 192.0.2.1\nx", nil, true, []string{
			"reason       bare LF\n", "offset       refused after 21 of 22 bytes\n",
			`bytes        PROXY TCP4 192.0.2.1\nx` + "\n" + strings.Repeat(" ", 13+20) + "^\n", "hint         a line ends in CR LF"}},
		{"refused bytes", plain[:12] + "\x2f\x11", nil, true, []string{
			"reason       v2 command\n", "bytes        0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a 2f 11\n" + strings.Repeat(" ", 13+36) + "^\n"}},
		{"refused far in", header(t, proxyMessage(proxyproto.TLV{Type: proxyproto.TypeUniqueID, Value: make([]byte, 129)})), nil, true,
			[]string{"reason       UNIQUE_ID longer than 128\n", "bytes        … 21 11 00 90 "}},
		{"TLS", "\x16\x03\x01\x02\x00", nil, true, []string{"hint         this is the beginning of TLS"}},
		{"HTTP", "GET / HTTP/1.1\r\n", nil, true, []string{"hint         this is the beginning of HTTP"}},
		{"SSH", "SSH-2.0-x\r\n", nil, true, []string{"hint         this is the beginning of SSH"}},
		{"nginx", "PROXY TCP6 ::1 192.0.2.1 1 2\r\n", nil, true, []string{"reason       ipv4 address in a TCP6 line", "--v1-mixed-families accepts them"}},
		{"nginx, the other way", "PROXY TCP4 192.0.2.9 ::1 4711 17102\r\n", nil, true, []string{"reason       ipv4 syntax", "--v1-mixed-families accepts them"}},
		{"nginx, taken", "PROXY TCP6 ::1 192.0.2.1 1 2\r\n", []string{"--v1-mixed-families"}, false, []string{"destination  192.0.2.1:2\n"}},
		{"nginx, taken the other way", "PROXY TCP4 192.0.2.9 ::1 4711 17102\r\n", []string{"--v1-ipv4-in-tcp6"}, false,
			[]string{"source       192.0.2.9:4711\n", "destination  [::1]:17102\n"}},
		{"required checksum of v1", v1Line, []string{"--require-checksum"}, true, []string{
			"reason       CRC32C required, and v1 has none\n", "refused after 6 of 45 bytes", "hint         --require-checksum is on"}},
		{"required checksum of LOCAL, missing", header(t, proxyproto.Message{}), []string{"--require-checksum"}, true,
			[]string{"reason       CRC32C missing\n"}},
		{"required checksum of LOCAL", header(t, proxyproto.Message{Checksum: true}), []string{"--require-checksum"}, false,
			[]string{"result       local (", "checksum     CRC32C correct\n"}},
		{"required checksum of LOCAL, wrong", header(t, proxyproto.Message{Checksum: true})[:22] + "x", []string{"--require-checksum"}, true,
			[]string{"reason       CRC32C mismatch\n"}},
		{"stacked, LOCAL is the last", header(t, proxyproto.Message{}) + v1Line, []string{"--headers", "2"}, false,
			[]string{"result       local (", `payload      45 bytes "PROXY TCP4`}},
		{"versions", plain, []string{"--accept", "v1"}, true, []string{"reason       v2 not accepted\n"}},
		{"too long", header(t, rich), []string{"--max-header", "52"}, true, []string{"reason       header longer than allowed\n"}},
		{"checksum required", plain, []string{"--require-checksum"}, true, []string{"reason       CRC32C missing\n"}},
		{"datagram", v1Line, []string{"--datagram"}, true, []string{"reason       not a v2 signature (v1 is TCP only)\n"}},
		{"empty datagram", "", []string{"--datagram"}, true, []string{"offset       refused after 0 of 0 bytes\n"}},
		{"stacked", v1Line + plain + "x", []string{"--headers", "2"}, false, []string{
			"header       1, from byte 0\n", "header       2, from byte 45\n", `payload      1 bytes "x"`}},
		{"stacked, one missing", v1Line, []string{"--headers", "2"}, true, []string{"header       2, from byte 45\nresult       incomplete\n"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, err := runDecode(t, row.stdin, row.args...)
			if (err != nil) != row.fails || row.fails && usage.ExitCode(err) != usage.ExitFailure {
				t.Errorf("ended with %v, want failure %v", err, row.fails)
			}
			for _, want := range row.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("the output has an escape sequence: %q", out)
			}
		})
	}
}

// TestCaret checks the position of the caret below the wrong byte: the text above the
// caret must begin with want.
func TestCaret(t *testing.T) {
	plain := header(t, proxyMessage())
	authority := proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: bytes.Repeat([]byte("a"), 40)}
	unique := proxyproto.TLV{Type: proxyproto.TypeUniqueID, Value: make([]byte, 129)}
	for _, row := range []struct {
		name, in string
		args     []string
		want     string
	}{
		{"an octet", "PROXY TCP4 203.0.113.999 198.51.100.2 1 2\r\nx", nil, `999 198`},
		{"a port", "PROXY TCP4 203.0.113.9 198.51.100.2 1 70000\r\nx", nil, `70000\r\nx`},
		{"behind escapes", "PROXY TCP4 203.0.113.9 198.51.100.2 \xc3\xa9\x00\" 2\r\n", nil, `\xc3\xa9\x00\" 2\r\n`},
		{"after multi-byte text", "PROXY TCP6 ::1 ::1 1 2 \xe2\x82\xac\r\n", nil, ` \xe2\x82\xac\r\n`},
		{"in multi-byte text", "PROXY UNKNOWN \xe2\x82\xac\xc3\xa9\rx", nil, `\rx`},
		{"an escape itself", "PROX\xc3\xa9", nil, `\xc3\xa9`},
		{"far in a line", "PROXY UNKNOWN " + strings.Repeat("\xc3\xa9", 30) + "\n" + strings.Repeat("y", 99), nil, `\nyyy`},
		{"far in text", "PROXY TCP6 1:1:1:1:1:1:1:1 1111:1111:1111:1111:1111:1111:1111:1111 1 02\r\n", nil, `02\r\n`},
		{"bytes", plain[:12] + "\x2f\x11", nil, "2f 11"},
		{"a length", plain[:12] + "\x21\x11\x00\x0b", nil, "00 0b"},
		{"a TLV far in", header(t, proxyMessage(authority, unique)), nil, "05 00 81 00"},
		{"a second header", v1Line + plain[:12] + "\x2f\x11", []string{"--headers", "2"}, "2f 11"},
	} {
		out, _ := runDecode(t, row.in, row.args...)
		lines := strings.Split(out, "\n")
		for i, line := range lines {
			if !strings.HasSuffix(line, "^") {
				continue
			}
			above := []rune(lines[i-1])
			if got := string(above[len([]rune(line))-1:]); !strings.HasPrefix(got, row.want) {
				t.Errorf("%s: the caret is below %q, want %q\n%s", row.name, got, row.want, out)
			}
		}
		if strings.Count(out, "^\n") != 1 {
			t.Errorf("%s: not one caret\n%s", row.name, out)
		}
	}
}

func TestDecodeJSON(t *testing.T) {
	rich := proxyMessage(
		proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte("example.com")},
		proxyproto.TLV{Type: proxyproto.TypeUniqueID, Value: []byte{0xff}}, mustSSL(t))
	rich.Checksum = true
	unspec := proxyproto.Message{Command: proxyproto.CommandProxy}
	in := header(t, unspec) + header(t, rich) + "payload"
	out, err := runDecode(t, in, "--json", "--headers", "2")
	if err != nil {
		t.Fatal(err)
	}
	var got headerJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if got.Result != "proxy" || got.Version != 2 || got.Start != 16 || got.Source != "192.0.2.1:56324" ||
		got.Destination != "198.51.100.2:443" || got.Checksum != "ok" || *got.Payload != 7 || got.Length != len(in)-16-7 {
		t.Errorf("%+v", got)
	}
	if len(got.Outer) != 1 || got.Outer[0].Result != "unknown" || got.Outer[0].Checksum != "opaque" {
		t.Errorf("outer: %+v", got.Outer)
	}
	if len(got.TLVs) != 4 {
		t.Fatalf("TLVs: %+v", got.TLVs)
	}
	if tlv := got.TLVs[0]; tlv.Type != "0x02" || tlv.Name != "AUTHORITY" || tlv.Value != "example.com" || tlv.Hex != hex.EncodeToString([]byte("example.com")) {
		t.Errorf("%+v", tlv)
	}
	if tlv := got.TLVs[1]; tlv.Value != "" || tlv.Hex != "ff" {
		t.Errorf("%+v", tlv)
	}
	ssl := got.TLVs[2].SSL
	if ssl == nil || !ssl.TLS || !ssl.Authenticated || ssl.CertificateSession || len(ssl.TLVs) != 2 || ssl.TLVs[0].Value != "TLSv1.3" {
		t.Errorf("%+v", ssl)
	}
}

func TestDecodeJSONFailures(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"PROXY TCP4 x\r\n", `{"result":"error","reason":"v1 field count","offset":14}`},
		{"PROXY", `{"result":"incomplete","missing_bytes":10}`},
	} {
		out, err := runDecode(t, row.in, "--json")
		if usage.ExitCode(err) != usage.ExitFailure {
			t.Errorf("%q: %v", row.in, err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(out)); err != nil || strings.TrimSpace(compact.String()) != row.want {
			t.Errorf("%q: %s, want %s", row.in, out, row.want)
		}
	}
}

func TestDecodeUsage(t *testing.T) {
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"0d0a"}, `unexpected argument "0d0a"`},
		{[]string{"--hex", "0d0a", "--file", "x"}, "--hex excludes"},
		{[]string{"--hex", "0d0"}, "3 hexadecimal digits"},
		{[]string{"--hex", "0d0g"}, `'g' is not a hexadecimal digit`},
		{[]string{"--headers", "0"}, `--headers "0" is too low`},
		{[]string{"--headers", "17"}, `--headers "17" is not a whole number from 0 to 16`},
		{[]string{"--accept", "v3"}, `--accept "v3" is not v1, v2 or v1,v2`},
		{[]string{"--accept", ""}, `--accept "" is empty`},
		{[]string{"--max-header", "51"}, `--max-header "51" is too short`},
		{[]string{"--max-header", "much"}, `--max-header "much" is not a size`},
	} {
		out, err := runDecode(t, "", row.args...)
		if usage.ExitCode(err) != usage.ExitUsage || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: %v, want %q", row.args, err, row.want)
		}
		if out != "" {
			t.Errorf("%q printed %q", row.args, out)
		}
	}
	if _, err := runDecode(t, "", "--max-header", "1", "--accept", "v3", "--hex", "00", "--raw"); len(config.Leaves(err)) != 3 {
		t.Errorf("not all problems at once: %v", err)
	}
}

func TestDecodeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(path, []byte(v1Line), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := runDecode(t, "", "--file", path); err != nil || !strings.Contains(out, "result       proxy\n") {
		t.Errorf("%v, %s", err, out)
	}
	if _, err := runDecode(t, "", "--file", path+"x"); !errors.Is(err, os.ErrNotExist) || usage.ExitCode(err) != usage.ExitFailure {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("0d0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runDecode(t, "", "--file", path); usage.ExitCode(err) != usage.ExitFailure || !strings.Contains(err.Error(), "--raw") {
		t.Error(err)
	}
}

// FuzzDecode prints arbitrary input, whether it is accepted or refused.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(v1Line))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x01\xc63d\x02\xdc\x04\x01\xbb\x20\x00\x04abcd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range []proxyproto.Options{{}, {Datagram: true}} {
			stack := decodeStack(b, 3, &o)
			var text, object bytes.Buffer
			if err := writeStack(&text, stack); err != nil {
				t.Fatal(err)
			}
			for _, c := range text.String() {
				if c != '\n' && c < ' ' || c == 0x7f {
					t.Fatalf("control byte %q in %q", c, text.String())
				}
			}
			if err := writeJSON(&object, stack); err != nil || !json.Valid(object.Bytes()) {
				t.Fatalf("%v: %s", err, object.Bytes())
			}
		}
	})
}

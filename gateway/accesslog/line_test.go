package accesslog

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// noon is the time of the tests' clocks, in a zone other than the log's.
var noon = time.Date(2026, 11, 22, 13, 0, 0, 123_456_789, time.FixedZone("", 3600))

// bare returns a log without a ring: lines go straight to w.
func bare(w io.Writer, level Level) *Log {
	l := &Log{
		level: level, instance: "c8f3", now: func() time.Time { return noon },
		lines: zerolog.New(w).Level(level.zerolog()), floods: make([]flood, len(record.Outcomes())),
	}
	l.others = l.lines.Hook(clock{l.now})
	return l
}

// finished is a transparent connection that was served.
func finished() *record.Connection {
	return &record.Connection{
		ID: 0x2a, Forward: "0.0.0.0:8443",
		Peer:        netip.MustParseAddrPort("10.0.0.5:40112"),
		Client:      netip.MustParseAddrPort("203.0.113.9:4711"),
		Destination: netip.MustParseAddrPort("198.51.100.7:443"),
		Backend:     netip.MustParseAddrPort("127.0.0.1:22"),
		Transparent: true, Version: 2,
		Outcome: record.OK, Phase: record.Relay, By: record.Client,
		BytesIn: 1832, BytesOut: 90211,
		HeaderTime: 412 * time.Microsecond, ConnectTime: 20300 * time.Microsecond, Duration: 5007123 * time.Microsecond,
		Details: &record.Details{Authority: "ssh.example.com", UniqueID: "0A000005:9CB0"},
	}
}

// refused is a connection whose header was refused.
func refused() *record.Connection {
	return &record.Connection{
		ID: 0x2b, Forward: ":25", Peer: netip.MustParseAddrPort("[2001:db8::5]:40112"),
		Outcome: record.NotProxy, Phase: record.Header, By: record.Gateway,
		Reason: "no signature", Offset: 1, Sample: "EHLO \x1b[31m\r\n",
		HeaderTime: 1500 * time.Nanosecond, Duration: 2 * time.Millisecond,
	}
}

// local returns a record of a connection with a LOCAL header.
func local(o record.Outcome) *record.Connection {
	return &record.Connection{
		ID: 1, Forward: ":25", Peer: netip.MustParseAddrPort("10.0.0.5:1"), Version: 2, Command: record.CommandLocal,
		Outcome: o, Phase: record.Relay, By: record.Client, Duration: time.Microsecond,
	}
}

// changed applies change to c and returns it.
func changed(c *record.Connection, change func(c *record.Connection)) *record.Connection {
	change(c)
	return c
}

// Log lines are an interface: users parse them by key and format.
func TestConnectionLine(t *testing.T) {
	everything := &record.Details{
		Authority: "ssh.example.com", ALPN: "h2", UniqueID: "0A000005:9CB0", TLSVersion: "TLSv1.3", TLSCommonName: "Zoë",
		HasTLSVerify: true, TLSVerified: true,
		AWSVPCEndpoint: "vpce-08d2bf15fac5001c9", HasAzureLink: true, HasGCPConnection: true, GCPConnection: 1<<64 - 1,
	}
	tests := []struct {
		name, want string
		level      Level
		c          *record.Connection
	}{
		{"ok",
			`{"level":"info","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"10.0.0.5:40112","client":"203.0.113.9:4711","destination":"198.51.100.7:443"` +
				`,"backend":"127.0.0.1:22","transparent":true,"version":2` +
				`,"outcome":"ok","phase":"relay","by":"client"` +
				`,"bytes_in":1832,"bytes_out":90211,"header_ms":0.412,"connect_ms":20.300,"duration_ms":5007.123` +
				`,"authority":"ssh.example.com","unique_id":"0A000005:9CB0","message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) { c.Source = c.Client })},
		{"all details",
			`{"level":"info","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"10.0.0.5:40112","client":"203.0.113.9:4711","destination":"198.51.100.7:443"` +
				`,"backend":"127.0.0.1:22","transparent":true,"version":2` +
				`,"outcome":"ok","phase":"relay","by":"client"` +
				`,"bytes_in":1832,"bytes_out":90211,"header_ms":0.412,"connect_ms":20.300,"duration_ms":5007.123` +
				`,"authority":"ssh.example.com","alpn":"h2","unique_id":"0A000005:9CB0","tls_version":"TLSv1.3"` +
				`,"tls_verified":true,"tls_cn":"Zoë","aws_vpce":"vpce-08d2bf15fac5001c9","azure_link":0` +
				`,"gcp_psc":18446744073709551615,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) { c.Details = everything })},
		{"unix sockets, different source",
			`{"level":"info","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"unix","client":"203.0.113.9:4711","destination":""` +
				`,"backend":"unix:/run/app.sock","source":"203.0.113.9:50000","transparent":true,"version":2` +
				`,"outcome":"ok","phase":"relay","by":"client"` +
				`,"bytes_in":1832,"bytes_out":90211,"header_ms":0.412,"connect_ms":20.300` +
				`,"duration_ms":5007.123,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) {
				c.Details, c.Destination, c.Peer = nil, netip.AddrPort{}, netip.AddrPort{}
				c.Backend, c.BackendPath = netip.AddrPort{}, "/run/app.sock"
				c.Source = netip.MustParseAddrPort("203.0.113.9:50000")
			})},
		{"stand-in source",
			`{"level":"info","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"10.0.0.5:40112","client":"[2001:db8::9]:4711","destination":"[2001:db8::1]:443"` +
				`,"backend":"127.0.0.1:22","source":"244.171.149.255:4711","mapped":true` +
				`,"transparent":true,"version":2,"outcome":"ok","phase":"relay","by":"client"` +
				`,"bytes_in":1832,"bytes_out":90211,"header_ms":0.412,"connect_ms":20.300` +
				`,"duration_ms":5007.123,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) {
				c.Details, c.Client = nil, netip.MustParseAddrPort("[2001:db8::9]:4711")
				c.Destination = netip.MustParseAddrPort("[2001:db8::1]:443")
				c.Source = netip.MustParseAddrPort("244.171.149.255:4711")
			})},
		{"health check",
			`{"level":"debug","time":"2026-11-22T12:00:00.123Z","id":"c8f3-1","forward":":25"` +
				`,"peer":"10.0.0.5:1","client":"","destination":"","backend":"","transparent":false,"version":0` +
				`,"outcome":"empty","phase":"header","by":"peer"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.000,"connect_ms":0.000` +
				`,"duration_ms":0.001,"message":"connection"}`,
			Debug, &record.Connection{
				ID: 1, Forward: ":25", Peer: netip.MustParseAddrPort("10.0.0.5:1"),
				Outcome: record.Empty, Phase: record.Header, By: record.Peer, Duration: time.Microsecond,
			}},
		{"health check with a LOCAL header",
			`{"level":"debug","time":"2026-11-22T12:00:00.123Z","id":"c8f3-1","forward":":25"` +
				`,"peer":"10.0.0.5:1","client":"","destination":"","backend":"","transparent":false,"version":2,"command":"local"` +
				`,"outcome":"reset","phase":"relay","by":"client"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.000,"connect_ms":0.000` +
				`,"duration_ms":0.001,"message":"connection"}`,
			Debug, local(record.Reset)},
		{"health check with a LOCAL header, refused",
			`{"level":"warn","time":"2026-11-22T12:00:00.123Z","id":"c8f3-1","forward":":25"` +
				`,"peer":"10.0.0.5:1","client":"","destination":"","backend":"","transparent":false,"version":2,"command":"local"` +
				`,"outcome":"backend_refused","phase":"relay","by":"client"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.000,"connect_ms":0.000` +
				`,"duration_ms":0.001,"message":"connection"}`,
			Info, local(record.BackendRefused)},
		{"bad header",
			`{"level":"warn","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2b","forward":":25"` +
				`,"peer":"[2001:db8::5]:40112","client":"","destination":"","backend":""` +
				`,"transparent":false,"version":0,"outcome":"not_proxy","phase":"header","by":"gateway"` +
				`,"reason":"no signature","offset":1,"bytes_in":0,"bytes_out":0,"header_ms":0.001,"connect_ms":0.000` +
				`,"duration_ms":2.000,"message":"connection"}`,
			Info, refused()},
		{"bad header with its sample",
			`{"level":"warn","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2b","forward":":25"` +
				`,"peer":"[2001:db8::5]:40112","client":"","destination":"","backend":""` +
				`,"transparent":false,"version":0,"outcome":"not_proxy","phase":"header","by":"gateway"` +
				`,"reason":"no signature","offset":1,"bytes_in":0,"bytes_out":0,"header_ms":0.001,"connect_ms":0.000` +
				`,"duration_ms":2.000,"sample":"\"EHLO \\x1b[31m\\r\\n\"","message":"connection"}`,
			Debug, refused()},
		{"backend down",
			`{"level":"warn","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"10.0.0.5:40112","client":"203.0.113.9:4711","destination":"198.51.100.7:443"` +
				`,"backend":"127.0.0.1:22","transparent":true,"version":2` +
				`,"outcome":"backend_refused","phase":"dial","by":"backend","reason":"connect: connection refused"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.412,"connect_ms":0.000` +
				`,"duration_ms":5007.123,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) {
				c.Outcome, c.Phase, c.By = record.BackendRefused, record.Dial, record.Backend
				c.Reason = "connect: connection refused"
				c.BytesIn, c.BytesOut, c.ConnectTime, c.Details = 0, 0, 0, nil
			})},
		{"no return path",
			`{"level":"warn","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"0.0.0.0:8443"` +
				`,"peer":"10.0.0.5:40112","client":"203.0.113.9:4711","destination":"198.51.100.7:443"` +
				`,"backend":"127.0.0.1:22","transparent":true,"version":2` +
				`,"outcome":"no_return_path","phase":"dial","by":"timeout"` +
				`,"reason":"no return path","action":"ip rule add from 127.0.0.1/32"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.412,"connect_ms":0.000` +
				`,"duration_ms":5007.123,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) {
				c.Outcome, c.Phase, c.By, c.Reason = record.NoReturnPath, record.Dial, record.Timeout, "no return path"
				c.Action = "ip rule add from 127.0.0.1/32"
				c.BytesIn, c.BytesOut, c.ConnectTime, c.Details = 0, 0, 0, nil
			})},
		{"flow of datagrams",
			`{"level":"info","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2a","forward":"udp://:53","protocol":"udp"` +
				`,"peer":"10.0.0.5:40112","client":"203.0.113.9:4711","destination":"198.51.100.7:443"` +
				`,"backend":"127.0.0.1:22","transparent":true,"version":2` +
				`,"outcome":"ok","phase":"relay","by":"timeout"` +
				`,"bytes_in":1832,"bytes_out":90211,"datagrams_in":12,"datagrams_out":0,"header_ms":0.000,"connect_ms":0.000` +
				`,"duration_ms":5007.123,"message":"connection"}`,
			Info, changed(finished(), func(c *record.Connection) {
				c.Datagram, c.Forward, c.By, c.DatagramsIn = true, "udp://:53", record.Timeout, 12
				c.HeaderTime, c.ConnectTime, c.Details = 0, 0, nil
			})},
		{"internal fault",
			`{"level":"error","time":"2026-11-22T12:00:00.123Z","id":"c8f3-2b","forward":":25"` +
				`,"peer":"[2001:db8::5]:40112","client":"","destination":"","backend":""` +
				`,"transparent":false,"version":0,"outcome":"internal","phase":"accept","by":"gateway"` +
				`,"reason":"epoll_ctl: cannot allocate memory"` +
				`,"bytes_in":0,"bytes_out":0,"header_ms":0.000,"connect_ms":0.000` +
				`,"duration_ms":2.000,"message":"connection"}`,
			Info, changed(refused(), func(c *record.Connection) {
				c.Outcome, c.Phase, c.HeaderTime = record.Internal, record.Accept, -time.Second
				c.Reason = "epoll_ctl: cannot allocate memory"
			})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			bare(&out, tt.level).Connection(tt.c)
			if got := out.String(); got != tt.want+"\n" {
				t.Errorf("got  %swant %s", got, tt.want)
			}
			if !json.Valid(out.Bytes()) {
				t.Error("the line is not valid JSON")
			}
		})
	}
}

func TestModesAndLevels(t *testing.T) {
	tests := []struct {
		name    string
		mode    Mode
		level   Level
		outcome record.Outcome
		want    bool
	}{
		{"ok", All, Info, record.OK, true},
		{"ok with mode errors", Errors, Info, record.OK, false},
		{"ok with mode off", Off, Debug, record.OK, false},
		{"ok at warn", All, Warn, record.OK, false},
		{"empty at info", All, Info, record.Empty, false},
		{"empty at debug", All, Debug, record.Empty, true},
		{"empty with mode errors", Errors, Debug, record.Empty, false},
		{"reset with mode errors", Errors, Info, record.Reset, true},
		{"untrusted at warn", All, Warn, record.Untrusted, true},
		{"untrusted at error", All, Error, record.Untrusted, false},
		{"internal at error", Errors, Error, record.Internal, true},
		{"internal with mode off", Off, Info, record.Internal, false},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		l := bare(&out, tt.level)
		l.mode = tt.mode
		l.Connection(&record.Connection{Outcome: tt.outcome})
		if got := out.Len() > 0; got != tt.want {
			t.Errorf("%s: written: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// hostile are texts that a client may put into a header to forge lines, to
// control the terminal, or to hide parts of a line.
var hostile = []string{
	"a\nb", "\r\n{\"outcome\":\"ok\"}", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "nul\x00", "del\x7f",
	"\xff\xfe", "cut \xe2\x82", "csi \u009b31m", "turned \u202e", "line\u2028par\u2029",
	"quote\" back\\slash", "zero\u200bwidth", "\ufeffbom",
}

func TestHostileTextIsEscaped(t *testing.T) {
	for _, text := range hostile {
		for _, format := range []Format{JSON, Console} {
			var out bytes.Buffer
			w := formatted(&out, Config{Format: format})
			c := finished()
			c.Outcome, c.Reason = record.Malformed, text
			c.Sample = text
			c.Details = &record.Details{
				Authority: text, ALPN: text, UniqueID: text, TLSVersion: text, TLSCommonName: text, AWSVPCEndpoint: text,
			}
			l := bare(w, Debug)
			l.Connection(c)
			l.Logger().Warn().Str("detail", text).Msg(text)
			for i, line := range strings.SplitAfter(out.String(), "\n")[:2] {
				if rest := strings.TrimSuffix(line, "\n"); i == 0 && !isPlain(rest) {
					t.Errorf("%v with %q: %q has unprintable characters", format, text, line)
				}
				if format == JSON && !json.Valid([]byte(line)) {
					t.Errorf("%v with %q: %q is not valid JSON", format, text, line)
				}
			}
			if n := strings.Count(out.String(), "\n"); n != 2 {
				t.Errorf("%v with %q: %d lines, want 2", format, text, n)
			}
			if strings.ContainsAny(out.String(), "\x00\x07\x1b\x7f\r") {
				t.Errorf("%v with %q: raw control characters in %q", format, text, out.String())
			}
		}
	}
}

// isPlain reports whether s is valid and all of it printable.
func isPlain(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// Different texts must look different in the log.
func TestPrintableIsUnambiguous(t *testing.T) {
	seen := make(map[string]string)
	for _, s := range append(hostile, "plain", "zoë", "a\\nb", "\xfe\xff", "\ufffd", "") {
		got := printable(s)
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q are both written as %s", s, other, got)
		}
		seen[got] = s
	}
	if got := printable("zoë.example.com:22 (日本)"); got != "zoë.example.com:22 (日本)" {
		t.Errorf("a harmless text is written as %s", got)
	}
}

// FuzzPrintable checks that every result is printable, and that the text can be
// restored from it.
func FuzzPrintable(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !isPlain(got) {
			t.Errorf("%q is written as %q", s, got)
		}
		if got == s {
			return
		}
		if back, err := strconv.Unquote(got); err != nil || back != s {
			t.Errorf("%q is written as %q, which reads %q, %v", s, got, back, err)
		}
	})
}

func TestConnectionDoesNotAllocate(t *testing.T) {
	l := bare(io.Discard, Info)
	full := finished()
	full.Details = &record.Details{
		Authority: "a", ALPN: "h2", UniqueID: "u", TLSVersion: "t", TLSCommonName: "Zoë", HasTLSVerify: true, TLSVerify: 18, AWSVPCEndpoint: "v",
		HasAzureLink: true, HasGCPConnection: true,
	}
	long := finished()
	long.Client = netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
	long.Destination = netip.MustParseAddrPort("[fe80:1111:2222:3333:4444:5555:6666:7777%0123456789abcde]:65535")
	for name, c := range map[string]*record.Connection{
		"ok": finished(), "all details": full, "long addresses": long, "refused": refused(),
	} {
		if n := allocations.PerRun(200, func() {
			l.floods[c.Outcome].window.Store(0) // reset the limit: write every line
			l.Connection(c)
		}); n != 0 {
			t.Errorf("%s: %v allocations per line, want 0", name, n)
		}
	}
	over := refused()
	if n := allocations.PerRun(200, func() { l.Connection(over) }); n != 0 {
		t.Errorf("%v allocations per line left out, want 0", n)
	}
}

// A name that no certificate proves has another key than one that the load balancer
// verified.
func TestUnverifiedCommonNameHasItsOwnKey(t *testing.T) {
	for _, tt := range []struct {
		details record.Details
		want    string
	}{
		{record.Details{TLSCommonName: "alice", HasTLSVerify: true, TLSVerified: true}, `,"tls_verified":true,"tls_cn":"alice","message"`},
		{record.Details{TLSCommonName: "alice", HasTLSVerify: true, TLSVerify: 18},
			`,"tls_verified":false,"tls_verify_error":18,"tls_cn_unverified":"alice","message"`},
		{record.Details{TLSCommonName: "alice", HasTLSVerify: true}, `,"tls_verified":false,"tls_cn_unverified":"alice","message"`},
		{record.Details{HasTLSVerify: true, TLSVerified: true}, `,"tls_verified":true,"message"`},
		{record.Details{TLSVersion: "TLSv1.3"}, `ms":5007.123,"tls_version":"TLSv1.3","message"`},
	} {
		var out bytes.Buffer
		bare(&out, Info).Connection(changed(finished(), func(c *record.Connection) { c.Details = &tt.details }))
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("%+v: %s, want %s", tt.details, out.String(), tt.want)
		}
	}
}

// A unique id is compared with the load balancer's log: one that is not printable is
// in hex, which both have, and not in Go's notation.
func TestBinaryUniqueIDIsHex(t *testing.T) {
	for _, tt := range []struct{ id, want string }{
		{"7F000001:E2A0_7F000001:03E8_69", "7F000001:E2A0_7F000001:03E8_69"},
		{"ABC~", "ABC~"},
		{"\x00\x01\xfe\xff", "0001feff"},
		{"id\n", "69640a"},
		{"\u202e", "e280ae"},
		{strings.Repeat("\xff", record.MaxDetail), strings.Repeat("ff", record.MaxDetail)},
	} {
		for _, format := range []Format{JSON, Console} {
			var out bytes.Buffer
			c := finished()
			c.Details = &record.Details{UniqueID: tt.id}
			bare(formatted(&out, Config{Format: format}), Info).Connection(c)
			want := `"unique_id":"` + tt.want + `"`
			if format == Console {
				want = "unique_id=" + tt.want
			}
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q: %s, want %s", tt.id, out.String(), want)
			}
		}
	}
}

func TestAppendTime(t *testing.T) {
	for _, at := range []time.Time{
		noon, {}, time.Unix(0, 0), time.Unix(0, 999_999_999), time.Date(2024, 2, 29, 23, 59, 59, 1e6, time.UTC),
		time.Date(2026, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600)), time.Date(9999, 12, 31, 0, 0, 0, 99e6, time.UTC),
	} {
		want := at.UTC().Format("2006-01-02T15:04:05.000Z")
		if got := string(appendTime(nil, at)); got != want {
			t.Errorf("appendTime(%v) = %s, want %s", at, got, want)
		}
	}
}

// BenchmarkLine measures formatting a line, without the copy into the ring.
func BenchmarkLine(b *testing.B) {
	l := bare(io.Discard, Info)
	c := finished()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

// BenchmarkConnection measures everything that a line costs an event loop,
// including the clock.
func BenchmarkConnection(b *testing.B) {
	l, err := New(Config{Writer: io.Discard, Format: JSON, Instance: "c8f3a1b2"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c := finished()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

// BenchmarkLeftOut measures a refusal in a flood.
func BenchmarkLeftOut(b *testing.B) {
	l := bare(io.Discard, Info)
	c := refused()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

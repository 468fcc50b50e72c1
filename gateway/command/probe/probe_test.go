package probe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/proxyproto"
	"unproxy/integration_test/await"
)

// lockedBuffer is an output that can be read while it is being written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// runProbe runs "unproxy probe" and returns its error.
func runProbe(ctx context.Context, out io.Writer, args ...string) error {
	app := usage.NewApp(&cli.Command{Name: "unproxy", Subcommands: []*cli.Command{Command()}})
	app.Writer, app.ErrWriter = out, out
	return app.RunContext(ctx, append([]string{"unproxy", "probe"}, args...))
}

// serveOnce accepts one connection on a new listener and calls serve, which closes it.
// It returns the listener's address, and a function that waits until serve returns.
func serveOnce(t *testing.T, serve func(net.Conn)) (address string, served func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.SetDeadline(await.Deadline(t))
		serve(conn)
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String(), func() { <-done }
}

// readHeader reads a header from conn.
func readHeader(conn net.Conn) (proxyproto.Header, []byte, error) {
	var b []byte
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		b = append(b, buffer[:n]...)
		h, refused := proxyproto.Decode(b, &proxyproto.Options{})
		if refused != nil || h.Result != proxyproto.Incomplete {
			return h, b, refused
		}
		if err != nil {
			return h, b, err
		}
	}
}

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// TestProbeHeaders checks the headers that arrive at the gateway.
func TestProbeHeaders(t *testing.T) {
	for _, row := range []struct {
		name  string
		args  []string
		check func(h proxyproto.Header, port uint16) bool
	}{
		{"default", nil, func(h proxyproto.Header, port uint16) bool {
			return h.Version == 2 && h.Source == exampleClient4 && h.Destination == netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		}},
		{"both addresses, v1", []string{"--v1", "--as", "192.0.2.7:99", "--dst", "198.51.100.7:80"}, func(h proxyproto.Header, _ uint16) bool {
			return h.Version == 1 && h.Source.String() == "192.0.2.7:99" && h.Destination.String() == "198.51.100.7:80"
		}},
		{"address without a port", []string{"--as", "192.0.2.7"}, func(h proxyproto.Header, _ uint16) bool { return h.Source.String() == "192.0.2.7:4711" }},
		{"another family", []string{"--as", "[2001:db8::7]:1"}, func(h proxyproto.Header, _ uint16) bool {
			return h.Source.String() == "[2001:db8::7]:1" && h.Destination == exampleDestination6
		}},
		{"family of the destination", []string{"--v2", "--dst", "2001:db8::7"}, func(h proxyproto.Header, _ uint16) bool {
			return h.Source == exampleClient6 && h.Destination.String() == "[2001:db8::7]:443"
		}},
		{"LOCAL", []string{"--local"}, func(h proxyproto.Header, _ uint16) bool { return h.Result == proxyproto.Local }},
		{"UNSPEC", []string{"--unknown"}, func(h proxyproto.Header, _ uint16) bool {
			return h.Result == proxyproto.Unknown && h.Version == 2
		}},
		{"UNKNOWN", []string{"--unknown", "--v1"}, func(h proxyproto.Header, _ uint16) bool {
			return h.Result == proxyproto.Unknown && h.Version == 1
		}},
		{"byte by byte", []string{"--split", "1"}, func(h proxyproto.Header, _ uint16) bool { return h.Result == proxyproto.Proxy }},
		{"TLVs", []string{"--crc", "--tlv", "authority=a,b", "--tlv", "0x05=0x00ff", "--tlv", "ssl_cn=me", "--tlv", "azure=7"}, func(h proxyproto.Header, _ uint16) bool {
			authority, _ := proxyproto.Find(h.TLVs, proxyproto.TypeAuthority)
			id, _ := proxyproto.Find(h.TLVs, proxyproto.TypeUniqueID)
			link, _ := proxyproto.Find(h.TLVs, proxyproto.TypeAzure)
			value, _ := proxyproto.Find(h.TLVs, proxyproto.TypeSSL)
			ssl, ok := proxyproto.ParseSSL(value)
			cn, _ := proxyproto.Find(ssl.TLVs, proxyproto.TypeSSLCommonName)
			_, crc := proxyproto.Find(h.TLVs, proxyproto.TypeCRC32C)
			return string(authority) == "a,b" && string(id) == "\x00\xff" && string(link) == "\x01\x07\x00\x00\x00" &&
				ok && ssl.Authenticated() && string(cn) == "me" && crc
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var h proxyproto.Header
			var payload []byte
			var err error
			address, wait := serveOnce(t, func(conn net.Conn) {
				defer conn.Close()
				var b []byte
				if h, b, err = readHeader(conn); err != nil {
					return
				}
				rest, _ := io.ReadAll(conn)
				payload = append(b[h.Length:], rest...)
				conn.Write([]byte("answer"))
			})
			var out lockedBuffer
			args := append([]string{"--to", address, "--half-close", "--send", `a\tb\x00`}, row.args...)
			if err := runProbe(t.Context(), &out, args...); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			wait()
			if err != nil || !row.check(h, netip.MustParseAddrPort(address).Port()) {
				t.Errorf("%+v, %v", h, err)
			}
			if string(payload) != "a\tb\x00" {
				t.Errorf("payload %q", payload)
			}
			for _, want := range []string{"sent         4 bytes", `received     6 bytes "answer"`, "end          closed by the other side (FIN)\n"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}

// TestProbeEndings checks the output for each ending of a connection.
func TestProbeEndings(t *testing.T) {
	for _, row := range []struct {
		name  string
		serve func(net.Conn)
		args  []string
		fails bool
		want  []string
	}{
		{"reset", func(c net.Conn) { readHeader(c); reset(c) }, nil, true,
			[]string{"received     nothing\n", "end          reset by the other side (RST)\n", "hint         a gateway resets peers that it does not trust: is this host (127.0.0.1) in its --trust?"}},
		{"reset without a header", func(c net.Conn) { c.Read(make([]byte, 9)); reset(c) }, []string{"--no-header"}, true,
			[]string{"header       none\n", "hint         a gateway resets connections without a header"}},
		{"nothing comes", func(c net.Conn) { io.Copy(io.Discard, c); c.Close() }, []string{"--timeout", "1s"}, true,
			[]string{"end          closed by the probe: nothing came for 1s (timeout)\n", "hint         does the backend wait"}},
		{"closed without an answer", func(c net.Conn) { readHeader(c); c.Close() }, []string{"--local", "--send", ""}, false,
			[]string{"sent         0 bytes of payload\n", "end          closed by the other side (FIN)\n", "hint         a gateway with --local close"}},
		{"an answer, and silence", func(c net.Conn) { readHeader(c); c.Write([]byte("ok")); io.Copy(io.Discard, c); c.Close() }, nil, false,
			[]string{`received     2 bytes "ok"`, "end          closed by the probe: the answer seems complete\n"}},
		{"a server that speaks first", func(c net.Conn) { c.Write([]byte("SSH-2.0\r\n")); io.Copy(io.Discard, c); c.Close() }, []string{"--send", ""}, false,
			[]string{`received     9 bytes "SSH-2.0\r\n"`}},
		{"reset after an answer", func(c net.Conn) {
			readHeader(c)
			c.Write([]byte("ok"))
			c.Read(make([]byte, 1)) // until the probe has received the answer
			reset(c)
		}, []string{"--half-close", "--send", ""}, false, []string{`received     2 bytes "ok"`, "end          reset by the other side (RST)\n"}},
		{"control bytes", func(c net.Conn) { readHeader(c); c.Write(bytes.Repeat([]byte("\x1b"), 999)); c.Close() }, nil, false,
			[]string{`received     999 bytes "\x1b`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			address, _ := serveOnce(t, row.serve)
			var out lockedBuffer
			err := runProbe(t.Context(), &out, append([]string{"--to", address}, row.args...)...)
			if (err != nil) != row.fails || row.fails && usage.ExitCode(err) != usage.ExitFailure {
				t.Errorf("ended with %v, want failure %v", err, row.fails)
			}
			for _, want := range row.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Error("the output has an escape sequence")
			}
		})
	}
}

func TestProbeRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var out lockedBuffer
	if err := runProbe(t.Context(), &out, "--to", address); usage.ExitCode(err) != usage.ExitFailure {
		t.Error(err)
	}
	for _, want := range []string{"end          no connection after", "connection refused", "hint         nothing listens there"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestProbeSendFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "payload")
	want := bytes.Repeat([]byte("0123456789"), 1<<16)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []byte
	address, wait := serveOnce(t, func(conn net.Conn) {
		defer conn.Close()
		got, _ = io.ReadAll(io.TeeReader(conn, conn)) // an echo that reads on only if the probe does
	})
	var out lockedBuffer
	if err := runProbe(t.Context(), &out, "--to", address, "--no-header", "--half-close", "--send-file", path); err != nil {
		t.Fatal(err)
	}
	wait()
	if !bytes.Equal(got, want) || !strings.Contains(out.String(), fmt.Sprintf("received     %d bytes", len(want))) {
		t.Errorf("%d bytes arrived of %d\n%s", len(got), len(want), out.String())
	}
}

func TestProbeWrongHeader(t *testing.T) {
	address, _ := serveOnce(t, func(conn net.Conn) { readHeader(conn); reset(conn) })
	var out lockedBuffer
	if err := runProbe(t.Context(), &out, "--to", address, "--tlv", "crc32c=0x00000000"); usage.ExitCode(err) != usage.ExitFailure {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "note         the gateway should refuse this header") {
		t.Error(out.String())
	}
}

func TestProbeInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	address, _ := serveOnce(t, func(conn net.Conn) {
		readHeader(conn)
		stop()
		io.Copy(io.Discard, conn)
		conn.Close()
	})
	if err := runProbe(ctx, io.Discard, "--to", address); usage.ExitCode(err) != usage.ExitFailure || !strings.Contains(err.Error(), "interrupted") {
		t.Error(err)
	}
}

func TestProbeUsage(t *testing.T) {
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "--to is missing"},
		{[]string{"--to", "127.0.0.1"}, `--to "127.0.0.1" is neither HOST:PORT`},
		{[]string{"--to", "unix:"}, `--to "unix:" is neither`},
		{[]string{"--to", "a:1", "--as", "example.com:1"}, `--as "example.com:1" is not IP or IP:PORT`},
		{[]string{"--to", "a:1", "--as", "[fe80::1%eth0]:1"}, "is not IP or IP:PORT"},
		{[]string{"--to", "a:1", "--as", "192.0.2.1:65536"}, "is not IP or IP:PORT"},
		{[]string{"--to", "a:1", "--dst", "x"}, `--dst "x" is not IP or IP:PORT`},
		{[]string{"--to", "a:1", "--v1", "--v2"}, "--v1 and --v2 exclude"},
		{[]string{"--to", "a:1", "--v1", "--local"}, "--v1 and --local exclude"},
		{[]string{"--to", "a:1", "--v1", "--crc"}, "--v1 and --crc exclude"},
		{[]string{"--to", "a:1", "--v1", "--tlv", "alpn=h2"}, "--v1 and --tlv exclude"},
		{[]string{"--to", "a:1", "--no-header", "--split", "1"}, "--no-header and --split exclude"},
		{[]string{"--to", "a:1", "--unknown", "--as", "192.0.2.1"}, "--unknown and --as exclude"},
		{[]string{"--to", "a:1", "--send", "x", "--send-file", "/dev/null"}, "--send and --send-file exclude"},
		{[]string{"--to", "a:1", "--send", `\q`}, "bad escape"},
		{[]string{"--to", "a:1", "--split", "0"}, "--split 0"},
		{[]string{"--to", "a:1", "--count", "0"}, "--count 0"},
		{[]string{"--to", "a:1", "--timeout", "0s"}, "--timeout 0s"},
		{[]string{"--to", "a:1", "--tlv", "alpn"}, "is not TYPE=VALUE"},
		{[]string{"--to", "a:1", "--tlv", "0x100=x"}, `"0x100" is not a TLV type`},
		{[]string{"--to", "a:1", "--tlv", "alpn=0xf"}, "is not hex"},
		{[]string{"--to", "a:1", "--tlv", "gcp=x"}, "is not a 64-bit number"},
		{[]string{"--to", "a:1", "--tlv", "noop=" + strings.Repeat("x", 65536)}, "at most 65535"},
		{[]string{"--to", "a:1", "--once"}, "--once needs --listen"},
		{[]string{"--to", "a:1", "--banner", "x"}, "--banner needs --listen"},
		{[]string{"--listen", "a:1", "--to", "a:1"}, "--to cannot be combined with --listen"},
		{[]string{"--to", "a:1", "--udp", "--v1"}, "--udp and --v1 exclude"},
		{[]string{"--to", "a:1", "--udp", "--split", "1"}, "--udp and --split exclude"},
		{[]string{"--to", "a:1", "--udp", "--spp", "--local"}, "--spp and --local exclude"},
		{[]string{"--to", "a:1", "--spp"}, "--spp needs --udp"},
		{[]string{"--to", "unix:/a", "--udp"}, "is a unix socket"},
		{[]string{"--listen", "a:1", "--udp", "--spp"}, "--spp cannot be combined with --listen"},
		{[]string{"--listen", "a"}, `--listen "a" is neither`},
		{[]string{"--listen", ""}, "--listen is empty"},
		{[]string{"--listen", "a:1", "--count", "0"}, "--count 0"},
		{[]string{"--listen", "a:1", "--banner", `\`}, "bad escape"},
		{[]string{"127.0.0.1:1"}, "unexpected argument"},
	} {
		var out lockedBuffer
		err := runProbe(t.Context(), &out, row.args...)
		if usage.ExitCode(err) != usage.ExitUsage || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%.80q: %v, want %q", row.args, err, row.want)
		}
		if out.String() != "" {
			t.Errorf("%.80q printed %q", row.args, out.String())
		}
	}
	if err := runProbe(t.Context(), io.Discard, "--to", "a:1", "--split", "0", "--as", "x"); len(config.Leaves(err)) != 2 {
		t.Errorf("not all problems at once: %v", err)
	}
}

package probe

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"

	"unproxy/gateway/datagram"
	"unproxy/gateway/proxyproto"
	"unproxy/integration_test/await"
)

// answerOnce receives one datagram on a new socket and sends the result of answers.
func answerOnce(t *testing.T, answers func(b []byte) []string) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(await.Deadline(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		for _, a := range answers(buffer[:n]) {
			conn.WriteTo([]byte(a), from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// TestProbeDatagrams checks the datagrams that arrive at the gateway, and the output
// about the answers.
func TestProbeDatagrams(t *testing.T) {
	header := func(b []byte) (proxyproto.Header, string) {
		h, err := proxyproto.Decode(b, &proxyproto.Options{Datagram: true})
		if err != nil {
			return h, err.Error()
		}
		return h, string(b[h.Length:])
	}
	for _, row := range []struct {
		name  string
		args  []string
		check func(b []byte) bool
		reply []string
		want  string // in the output
		fails bool
	}{
		{"version 2", []string{"--as", "192.0.2.7:99", "--send", "hello"}, func(b []byte) bool {
			h, payload := header(b)
			return h.Result == proxyproto.Proxy && h.Source.String() == "192.0.2.7:99" && payload == "hello"
		}, []string{"yes", "", "no"}, `received     3 datagrams, 5 bytes "yesno"`, false},
		{"an empty answer", []string{"--send", ""}, func(b []byte) bool {
			_, payload := header(b)
			return payload == ""
		}, []string{""}, "received     1 datagram, 0 bytes", false},
		{"LOCAL, with a checksum", []string{"--local", "--crc", "--send", "x"}, func(b []byte) bool {
			h, payload := header(b)
			return h.Result == proxyproto.Local && payload == "x"
		}, []string{"x"}, "header       v2 LOCAL", false},
		{"no header", []string{"--no-header", "--send", "x"}, func(b []byte) bool { return string(b) == "x" }, []string{"x"}, "header       none", false},
		{"Simple Proxy Protocol", []string{"--spp", "--as", "192.0.2.7:99", "--send", "x"}, func(b []byte) bool {
			client, _, ok := datagram.DecodeSPP(b)
			return ok && client.String() == "192.0.2.7:99" && string(b[datagram.SPPLength:]) == "x"
		}, []string{"x"}, "header       Simple Proxy Protocol, from 192.0.2.7:99", false},
		{"no answer", []string{"--timeout", "50ms"}, func(b []byte) bool { return true }, nil, "nothing came for 50ms (timeout)\nhint         a gateway drops", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			arrived := make(chan bool, 1)
			address := answerOnce(t, func(b []byte) []string {
				arrived <- row.check(b)
				return row.reply
			})
			var out lockedBuffer
			err := runProbe(t.Context(), &out, append([]string{"--udp", "--to", address}, row.args...)...)
			if (err != nil) != row.fails || !strings.Contains(out.String(), row.want) {
				t.Errorf("ended with %v and printed\n%swant %q", err, out.String(), row.want)
			}
			if !<-arrived {
				t.Error("an unexpected datagram arrived")
			}
		})
	}
}

// TestProbeDatagramRefused sends to a closed port. The kernel answers with ICMP.
func TestProbeDatagramRefused(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := conn.LocalAddr().String()
	conn.Close()
	var out lockedBuffer
	if err := runProbe(t.Context(), &out, "--udp", "--to", address); err == nil || !strings.Contains(out.String(), "refused: the port is closed") {
		t.Errorf("ended with %v and printed\n%s", err, out.String())
	}
}

// TestProbeListenDatagrams connects a probe with another one that acts as the backend.
func TestProbeListenDatagrams(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out lockedBuffer
	ended := make(chan error, 1)
	go func() {
		ended <- runProbe(ctx, &out, "--udp", "--listen", "127.0.0.1:0", "--banner", "re: ", "--count", "2")
	}()
	address := waitFor(t, &out, `listening on (\S+)\n`)
	var said lockedBuffer
	if err := runProbe(ctx, &said, "--udp", "--to", address, "--no-header", "--send", "hello", "--count", "2"); err != nil {
		t.Errorf("ended with %v and printed\n%s", err, said.String())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), `9 bytes "re: hello"`) || !regexp.MustCompile(`datagram from 127.0.0.1:\d+, 5 bytes`).MatchString(out.String()) {
		t.Errorf("the backend printed\n%sthe probe\n%s", out.String(), said.String())
	}
}

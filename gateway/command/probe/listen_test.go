package probe

import (
	"context"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestProbeListen connects a probe with another one that listens.
func TestProbeListen(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			listen := "127.0.0.1:0"
			if network == "unix" {
				listen = "unix:" + filepath.Join(t.TempDir(), "s")
			}
			var server, client lockedBuffer
			ended := make(chan error, 1)
			go func() {
				ended <- runProbe(t.Context(), &server, "--listen", listen, "--count", "2", "--banner", `hi\r\n`)
			}()
			to := "unix:" + strings.TrimPrefix(listen, "unix:")
			if address := waitFor(t, &server, `listening on (\S+)`); network == "tcp" {
				to = address
			}
			if err := runProbe(t.Context(), &client, "--to", to, "--no-header", "--send", "echo me", "--half-close", "--count", "2"); err != nil {
				t.Errorf("%v\n%s", err, client.String())
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			for _, want := range []string{"probe        2 of 2\n", `received     11 bytes "hi\r\necho me"`, "summary      2 of 2 succeeded\n"} {
				if !strings.Contains(client.String(), want) {
					t.Errorf("no %q in:\n%s", want, client.String())
				}
			}
			want := "connection from a unix socket to unix:"
			if network == "tcp" {
				want = "connection from 127.0.0.1:"
			}
			if strings.Count(server.String(), want) != 2 {
				t.Errorf("want %q twice in:\n%s", want, server.String())
			}
		})
	}
}

// waitFor waits until the output matches the pattern, and returns its group.
func waitFor(t *testing.T, out *lockedBuffer, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if found := match.FindStringSubmatch(out.String()); found != nil {
			return found[1]
		}
	}
	t.Fatalf("no %s in:\n%s", pattern, out.String())
	return ""
}

func TestProbeListenStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var out lockedBuffer
	ended := make(chan error, 1)
	go func() { ended <- runProbe(ctx, &out, "--listen", "127.0.0.1:0") }()
	conn, err := net.Dial("tcp", waitFor(t, &out, `listening on (\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	waitFor(t, &out, `(connection from)`)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

package integration_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// adminAt is where the tests put the admin endpoint.
const adminAt = "127.0.0.1:9180"

// adminClient speaks to the admin endpoint on an address or on unix:PATH. Each
// request has a connection of its own.
func adminClient(address string) *http.Client {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	return &http.Client{Timeout: await.Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
}

// adminGet asks the admin endpoint for a path.
func adminGet(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	return getWith(t, adminClient(address), path)
}

// getWith asks the admin endpoint that the client speaks to for a path.
func getWith(t *testing.T, client *http.Client, path string) (code int, body string) {
	t.Helper()
	response, err := client.Get("http://localhost" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// notReady returns the reasons that /readyz gives; none when it answers 200.
func notReady(t *testing.T, address string) (reasons []string) {
	t.Helper()
	code, body := adminGet(t, address, "/readyz")
	var answer struct {
		Ready   bool
		Reasons []struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("/readyz: %s: %v", body, err)
	}
	for _, r := range answer.Reasons {
		reasons = append(reasons, r.Reason)
	}
	if ready := code == http.StatusOK; ready != answer.Ready || ready != (len(reasons) == 0) || !ready && code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %s", code, body)
	}
	return reasons
}

// The gateway is ready when it serves, not ready while it drains, and the
// endpoint lasts as long as the drain:
//
//	conn ──header──▶ gateway :2000 ◀── SIGTERM
//	                 └ admin :9180 ◀── /readyz, or a unix socket
func TestReadiness(t *testing.T) {
	for _, on := range []string{"tcp", "unix"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				address := adminAt
				if on == "unix" {
					address = "unix:" + filepath.Join(t.TempDir(), "admin.sock")
				}
				g, conn, behind := session(t, "--admin", address)
				if got := g.WaitLog(t, "admin endpoint").String("address"); got != address {
					t.Errorf("logged address %q, want %q", got, address)
				}
				if reasons := notReady(t, address); len(reasons) > 0 {
					t.Errorf("not ready: %q", reasons)
				}
				if code, body := adminGet(t, address, "/healthz"); code != http.StatusOK {
					t.Errorf("/healthz: %d %s", code, body)
				}
				g.Signal(syscall.SIGTERM)
				g.WaitLog(t, "draining")
				if reasons := strings.Join(notReady(t, address), " "); reasons != "draining" {
					t.Errorf("while it drains it is not ready for %q, want draining", reasons)
				}
				conn.Close()
				behind.Close()
				if code := g.Wait(t); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
				if path, ok := strings.CutPrefix(address, "unix:"); ok {
					if _, err := os.Stat(path); err == nil {
						t.Error("the socket is there after the end")
					}
				}
			})
		})
	}
}

// Out of descriptors the gateway is not ready until there are some again:
//
//	conn ──header──▶ gateway :2000, without a descriptor left ──▶ echo :3000
//	                 └ admin :9180 ◀── /readyz
func TestNotReadyWithoutDescriptors(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		echo(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--admin", adminAt)
		client := adminClient(adminAt)
		client.Transport.(*http.Transport).DisableKeepAlives = false // a new connection would need a descriptor
		wantReady := func(code int, text string) {
			t.Helper()
			if got, body := getWith(t, client, "/readyz"); got != code || !strings.Contains(body, text) {
				t.Errorf("/readyz: %d %s; want %d with %q", got, body, code, text)
			}
		}
		wantReady(http.StatusOK, "true")
		limit := func(n int) {
			t.Helper()
			var old unix.Rlimit
			if err := unix.Prlimit(g.PID(), unix.RLIMIT_NOFILE, nil, &old); err != nil {
				t.Fatal(err)
			}
			if err := unix.Prlimit(g.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(n), Max: old.Max}, nil); err != nil {
				t.Fatal(err)
			}
		}
		limit(openDescriptors(t, g.PID()))
		lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
		g.WaitLine(t, `"accept_paused"`)
		wantReady(http.StatusServiceUnavailable, `"reason":"descriptors"`)
		limit(1000)
		g.WaitLine(t, `"accept_resumed"`)
		wantReady(http.StatusOK, "true")
	})
}

// However many connect to the admin endpoint and say nothing, they hold few
// descriptors and keep the gateway neither from its work nor from ending:
//
//	100 × silent ──▶ admin :9180
//	conn ──header──▶ gateway :2000
func TestAdminIsBounded(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t, "--admin", adminAt)
		before := openDescriptors(t, g.PID())
		for range 100 {
			lab.Dial(t, adminAt)
		}
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
		if n := openDescriptors(t, g.PID()); n > before+20 {
			t.Errorf("the endpoint holds %d descriptors", n-before)
		}
		conn.Close()
		behind.Close()
		g.Signal(syscall.SIGTERM)
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

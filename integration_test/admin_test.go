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

// adminAt is the address of the admin endpoint in the tests.
const adminAt = "127.0.0.1:9180"

// adminClient returns a client of the admin endpoint at an address or at unix:PATH. It
// opens a new connection for each request.
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

// adminGet requests a path from the admin endpoint.
func adminGet(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	return adminDo(t, adminClient(address), http.MethodGet, path)
}

// adminPost sends an empty request to a path of the admin endpoint, with headers such
// as "Origin: https://site.example".
func adminPost(t *testing.T, path string, headers ...string) (code int, body string) {
	t.Helper()
	return adminDo(t, adminClient(adminAt), http.MethodPost, path, headers...)
}

func adminDo(t *testing.T, client *http.Client, method, path string, headers ...string) (code int, body string) {
	t.Helper()
	request, err := http.NewRequest(method, "http://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
		if name == "Host" {
			request.Host = value
		}
	}
	response, err := client.Do(request)
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

// readyz returns the status of /readyz, or the error of the request.
func readyz(address string) string {
	response, err := adminClient(address).Get("http://localhost/readyz")
	if err != nil {
		return err.Error()
	}
	response.Body.Close()
	return response.Status
}

// notReady returns the reasons that /readyz reports. There are none if it answers 200.
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
	if ready := code == http.StatusOK; ready != answer.Ready || ready != (len(reasons) == 0) ||
		!ready && code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %s", code, body)
	}
	return reasons
}

// The gateway is ready while it serves and not ready while it drains. The endpoint
// answers until the end of the drain:
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
					t.Errorf("while draining the reasons are %q, want draining", reasons)
				}
				conn.Close()
				behind.Close()
				if code := g.Wait(t); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
				if path, ok := strings.CutPrefix(address, "unix:"); ok {
					if _, err := os.Stat(path); err == nil {
						t.Error("the socket file remains after the end")
					}
				}
			})
		})
	}
}

// When file descriptors run out, the gateway is not ready until some are free again:
//
//	conn ──header──▶ gateway :2000, no descriptor left ──▶ echo :3000
//	                 └ admin :9180 ◀── /readyz
func TestNotReadyWithoutDescriptors(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		g := plainGateway(t, "--admin", adminAt)
		client := adminClient(adminAt)
		client.Transport.(*http.Transport).DisableKeepAlives = false // a new connection would need a descriptor
		wantReady := func(code int, text string) {
			t.Helper()
			if got, body := adminDo(t, client, http.MethodGet, "/readyz"); got != code || !strings.Contains(body, text) {
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

// Idle connections to the admin endpoint use a bounded number of descriptors, and do
// not keep the gateway from serving or from exiting:
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
			t.Errorf("the endpoint uses %d descriptors", n-before)
		}
		conn.Close()
		behind.Close()
		g.Signal(syscall.SIGTERM)
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

package admin

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/gateway/readiness"
)

// served is a client of an endpoint that listens, on TCP and on a unix socket.
func served(t *testing.T, c Config) []*Client {
	t.Helper()
	var clients []*Client
	for _, at := range []Address{
		{TCP: netip.MustParseAddrPort("127.0.0.1:0")},
		{Path: filepath.Join(t.TempDir(), "admin.sock")},
	} {
		l := open(t, at)
		s := Serve(l, c)
		t.Cleanup(s.Close)
		client := NewClient(AddressOf(l))
		t.Cleanup(client.http.CloseIdleConnections)
		clients = append(clients, client)
	}
	return clients
}

func TestClient(t *testing.T) {
	config := quiet()
	for _, c := range served(t, config) {
		if reasons, err := c.Readiness(t.Context()); err != nil || len(reasons) != 0 {
			t.Errorf("ready: %v, %v", reasons, err)
		}
		config.Readiness.Set(readiness.Draining, "because")
		if reasons, err := c.Readiness(t.Context()); err != nil || len(reasons) != 1 || reasons[0] != (readiness.Reason{Word: "draining", Detail: "because"}) {
			t.Errorf("not ready: %v, %v", reasons, err)
		}
		config.Readiness.Clear(readiness.Draining)
		if s, err := c.Status(t.Context()); err != nil || !s.Ready {
			t.Errorf("status: %+v, %v", s, err)
		}
		if all, err := c.Connections(t.Context(), "limit=3"); err != nil || all.Matched != 0 {
			t.Errorf("connections: %+v, %v", all, err)
		}
		if _, err := c.Connections(t.Context(), "limit=none"); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("a query that is wrong: %v", err)
		}
	}
}

// An endpoint on all addresses is asked on loopback.
func TestReachable(t *testing.T) {
	for listens, want := range map[string]string{"0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.5:1": "10.0.0.5:1", "[::1]:1": "[::1]:1"} {
		if got := NewClient(Address{TCP: netip.MustParseAddrPort(listens)}).at.TCP.String(); got != want {
			t.Errorf("%s is asked at %s; want %s", listens, got, want)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	at := Address{Path: filepath.Join(t.TempDir(), "none")}
	_, err := NewClient(at).Readiness(t.Context())
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || !errors.Is(err, syscall.ENOENT) || !strings.Contains(unreachable.Hint(), "--admin "+at.String()) {
		t.Errorf("%v", err)
	}
	if text := err.Error(); strings.Count(text, at.Path) != 1 {
		t.Errorf("the error names the address more than once: %s", text)
	}
}

// Something else may listen there. Its answer is not taken for ours.
func TestAnotherServerAnswers(t *testing.T) {
	for _, body := range []string{"hello", "{}", `{"ready":false}`, `{"ready":false,"reasons":[{"reason":"x"}]}`} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		other := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) })}
		go other.Serve(l)
		t.Cleanup(func() { other.Close() })
		if _, err := NewClient(AddressOf(l)).Readiness(t.Context()); err == nil || !strings.Contains(err.Error(), "not that of unproxy") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

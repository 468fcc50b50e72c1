package admin

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// serveClients starts endpoints on TCP and on a unix socket, and returns a client of
// each.
func serveClients(t *testing.T, c Config) []*Client {
	t.Helper()
	var clients []*Client
	for _, at := range []Address{
		{TCP: netip.MustParseAddrPort("127.0.0.1:0")},
		{Path: filepath.Join(t.TempDir(), "admin.sock")},
	} {
		l := open(t, at)
		s := Serve(l, c)
		t.Cleanup(s.Close)
		client := NewClient(Control, AddressOf(l))
		t.Cleanup(client.http.CloseIdleConnections)
		clients = append(clients, client)
	}
	return clients
}

func TestClient(t *testing.T) {
	config := quiet()
	for _, c := range serveClients(t, config) {
		if got, err := c.Readiness(t.Context(), ReadinessQuery{}); err != nil || !got.Ready {
			t.Errorf("ready: %v, %v", got, err)
		}
		config.Readiness.Set(readiness.Draining, "because")
		want := []readiness.Reason{{Word: "draining", Detail: "because"}}
		if got, err := c.Readiness(t.Context(), ReadinessQuery{}); err != nil || got.Ready || !slices.Equal(got.Reasons, want) {
			t.Errorf("draining: %v, %v; want %v", got, err, want)
		}
		config.Readiness.Clear(readiness.Draining)
		if s, err := c.Status(t.Context()); err != nil || !s.Ready {
			t.Errorf("status: %+v, %v", s, err)
		}
		if all, err := c.Connections(t.Context(), "limit=3"); err != nil || all.Matched != 0 {
			t.Errorf("connections: %+v, %v", all, err)
		}
		if _, err := c.Connections(t.Context(), "limit=none"); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("invalid query: %v, want status 400", err)
		}
	}
}

// A client uses loopback if the endpoint listens on all addresses.
func TestReachable(t *testing.T) {
	for listener, want := range map[string]string{
		"0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.5:1": "10.0.0.5:1", "[::1]:1": "[::1]:1",
	} {
		if got := NewClient(Control, Address{TCP: netip.MustParseAddrPort(listener)}).at.TCP.String(); got != want {
			t.Errorf("client of %s connects to %s; want %s", listener, got, want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	at := Address{Path: filepath.Join(t.TempDir(), "none")}
	_, err := NewClient(Control, at).Readiness(t.Context(), ReadinessQuery{})
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("%v; want an UnreachableError for ENOENT", err)
	}
	if !strings.Contains(unreachable.Hint(), "--admin "+at.String()) {
		t.Errorf("hint %q does not name the address", unreachable.Hint())
	}
	if text := err.Error(); strings.Count(text, at.Path) != 1 {
		t.Errorf("the error does not name the address exactly once: %s", text)
	}
}

// Another program may listen at the address. The client must not accept its answers.
func TestAnswerOfAnotherServer(t *testing.T) {
	for _, body := range []string{"hello", "{}", `{"ready":false}`, `{"ready":false,"reasons":[{"reason":"x"}]}`} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		answer := func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) }
		other := http.Server{Handler: http.HandlerFunc(answer)}
		go other.Serve(l)
		t.Cleanup(func() { other.Close() })
		_, err = NewClient(Control, AddressOf(l)).Readiness(t.Context(), ReadinessQuery{})
		if err == nil || !strings.Contains(err.Error(), "not from unproxy") {
			t.Errorf("answer %s: %v, want an error", body, err)
		}
	}
}

// A client asks about single forwards, whatever their names consist of.
func TestClientAsksAboutForwards(t *testing.T) {
	c := quiet()
	names := []string{":2222", "udp://[::1]:53", "a b&c=d?e#f;g%20+h", "unix:/run/in.sock"}
	for _, name := range names {
		c.Gateway.Forwards = append(c.Gateway.Forwards, &forward.Forward{Name: name})
	}
	for _, client := range serveClients(t, c) {
		for i, name := range names {
			c.Readiness.SetProblems(readiness.ReturnPath, []readiness.Problem{{Forward: i, Detail: "lost"}})
			for _, other := range names {
				got, err := client.Readiness(t.Context(), ReadinessQuery{Forward: other})
				if err != nil || got.Ready != (other != name) {
					t.Errorf("%q while %q is broken: %+v, %v", other, name, got, err)
				}
			}
			if got, err := client.Readiness(t.Context(), ReadinessQuery{All: true}); err != nil || got.Ready {
				t.Errorf("all: %+v, %v", got, err)
			}
		}
		_, err := client.Readiness(t.Context(), ReadinessQuery{Forward: "ssh"})
		if err == nil || !strings.HasPrefix(err.Error(), `unknown forward "ssh"; known: :2222, udp://[::1]:53, `) {
			t.Errorf("an unknown forward: %v", err)
		}
	}
}

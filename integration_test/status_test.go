package integration_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"unproxy/gateway/admin"
	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// adminJSON requests a path from the admin endpoint at an address and decodes the response.
func adminJSON(t *testing.T, address, path string, into any) {
	t.Helper()
	code, body := adminGet(t, address, path)
	if code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, code, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("%s: %s: %v", path, body, err)
	}
}

// connectionsOf returns the active connections that match the query.
func connectionsOf(t *testing.T, query string) (c admin.Connections) {
	t.Helper()
	adminJSON(t, adminAt, "/connections.json"+query, &c)
	return c
}

// statusOf returns the status that the admin endpoint at an address shows.
func statusOf(t *testing.T, address string) (s admin.Status) {
	t.Helper()
	adminJSON(t, address, "/status.json", &s)
	return s
}

// cut resets a connection by the admin endpoint and returns the status code.
func cut(t *testing.T, id string) int {
	t.Helper()
	code, _ := adminDo(t, adminClient(adminAt), http.MethodDelete, "/connections/"+id)
	return code
}

// POST /-/drain starts a drain, unless it comes from another site's page. Only a signal
// ends the drain early:
//
//	conn ──header──▶ gateway :2000 ──▶ behind :3000
//	                 └ admin :9180 ◀── POST /-/drain
func TestDrainByRequest(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, conn, behind := session(t, "--admin", adminAt, "--drain-timeout", "1h")
		for _, header := range []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Host: evil.example"} {
			if code, _ := adminPost(t, "/-/drain", header); code != http.StatusForbidden {
				t.Errorf("with %s: %d", header, code)
			}
		}
		if reasons := notReady(t, adminAt); len(reasons) > 0 {
			t.Fatalf("not ready: %q", reasons)
		}
		for range 3 {
			if code, _ := adminPost(t, "/-/drain"); code != http.StatusAccepted {
				t.Errorf("POST /-/drain: %d", code)
			}
		}
		g.WaitLog(t, "draining").Expect(t, "signal", "POST /-/drain")
		await.Until(t, "the listener is closed", func() bool { return refuses("127.0.0.1:2000") })
		if reasons := strings.Join(notReady(t, adminAt), " "); reasons != "draining" {
			t.Errorf("the reasons are %q, want draining", reasons)
		}
		write(t, conn, []byte("still here"))
		wantRead(t, behind, "still here")
		g.Signal(syscall.SIGTERM)
		wantReset(t, conn)
		if code := g.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// An operator lists the connections and cuts one of them. Its log line has the same id:
//
//	conn ──header──▶ gateway :2000 ──▶ behind :3000
//	                 └ admin :9180 ◀── /connections.json, DELETE
func TestCutByTheOperator(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := plainGateway(t, "--admin", adminAt)
		var conns, behind []*net.TCPConn
		for i := range 3 {
			client := netip.AddrPortFrom(client4.Addr(), client4.Port()+uint16(i))
			conns = append(conns, lab.Send(t, "127.0.0.1:2000", lab.V2(client, dest4), make([]byte, 100*(i+1))))
			behind = append(behind, backend.Next(t))
			wantRead(t, behind[i], string(make([]byte, 100*(i+1))))
		}
		lab.Dial(t, "127.0.0.1:2000") // sends nothing
		await.Until(t, "there are four connections", func() bool { return connectionsOf(t, "").Matched == 4 })
		if n := connectionsOf(t, "?client=198.51.100.0%2F24").Matched; n != 0 {
			t.Errorf("%d connections match another client", n)
		}
		found := connectionsOf(t, "?client=192.0.2.9&sort=bytes&limit=2")
		if found.Matched != 3 || len(found.Connections) != 2 {
			t.Fatalf("found %+v", found)
		}
		c := found.Connections[0]
		if c.Client != "192.0.2.9:4713" || c.Destination != dest4.String() || c.Backend != "127.0.0.1:3000" ||
			c.Forward != "127.0.0.1:2000" ||
			c.Peer != conns[2].LocalAddr().String() || c.State != "relaying" || c.BytesIn != 300 || c.Version != 2 {
			t.Errorf("the connection is listed as %+v", c)
		}
		if code := cut(t, c.ID); code != http.StatusNoContent {
			t.Fatalf("DELETE: %d", code)
		}
		wantReset(t, conns[2])
		wantReset(t, behind[2])
		g.NextConnection(t).Expect(t, "id", c.ID, "outcome", "reset", "by", "gateway", "phase", "relay",
			"reason", "cut by the operator")
		if code := cut(t, c.ID); code != http.StatusNotFound {
			t.Errorf("DELETE again: %d", code)
		}
		write(t, conns[0], []byte("still here"))
		wantRead(t, behind[0], "still here")
	})
}

// The status has forwards, trust rules with their hits, and refusals with hints:
//
//	conn ──header──▶ gateway :2000 ──▶ behind :3000
//	127.0.0.2 ──nonsense──▶ │ └ admin :9180 ◀── /status.json
//	127.0.0.3, untrusted ───┘
func TestStatus(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g, _, _ := session(t, "--trust", "127.0.0.2", "--trust", "cloudflare", "--admin", adminAt)
		dialFrom(t, "127.0.0.2", "127.0.0.1:2000").Write([]byte("GET / HTTP/1.1\r\n"))
		g.NextConnection(t).Expect(t, "outcome", "not_proxy")
		for range 3 {
			wantRejected(t, "127.0.0.3", "127.0.0.1:2000", nil)
			g.NextConnection(t).Expect(t, "outcome", "untrusted")
		}
		s := statusOf(t, adminAt)
		if !s.Ready || s.PID != g.PID() || s.Active != 1 || s.Limit == 0 || len(s.Forwards) != 1 || len(s.Trust) != 1 {
			t.Fatalf("status %+v", s)
		}
		f := s.Forwards[0]
		if f.Name != "127.0.0.1:2000" || f.Accepted != 5 || f.Refused != 4 || f.Closed["untrusted"] != 3 ||
			len(f.Listeners) != 1 || f.Listeners[0].Leads != "127.0.0.1:3000" || f.Listeners[0].Address != "127.0.0.1:2000" {
			t.Errorf("forward %+v", f)
		}
		hits := map[string]uint64{}
		for _, r := range s.Trust[0].Rules {
			hits[r.Rule] += r.Hits
		}
		if fmt.Sprint(hits) != "map[127.0.0.1:1 127.0.0.2:1 cloudflare:0]" {
			t.Errorf("hits %v", hits)
		}
		if len(s.Refusals) != 2 || s.Refusals[0].Outcome != "untrusted" || s.Refusals[0].Peer != "127.0.0.3" || s.Refusals[0].Count != 3 ||
			s.Refusals[1].Outcome != "not_proxy" || s.Refusals[1].Sample != `"GET / HTTP/1.1\r\n"` || s.Refusals[1].Hint == "" {
			t.Errorf("refusals %+v", s.Refusals)
		}
	})
}

// The list of connections can be requested while connections are accepted. At the end
// each connection is listed once:
//
//	2000 × conn ──header──▶ gateway :2000 ──▶ echo :3000
//	                        └ admin :9180 ◀── /connections.json, repeatedly
func TestListUnderLoad(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const sessions = 2000
		needDescriptors(t, 2*sessions+200)
		lab.Echo(t, "127.0.0.1:3000")
		plainGateway(t, "--admin", adminAt)
		stop, asking := make(chan struct{}), make(chan error, 1)
		go func() {
			client := adminClient(adminAt)
			for {
				select {
				case <-stop:
					asking <- nil
					return
				default:
				}
				response, err := client.Get("http://localhost/connections.json?limit=10")
				if err != nil {
					asking <- err
					return
				}
				response.Body.Close()
			}
		}()
		for range sessions {
			conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, conn, "hello")
		}
		close(stop)
		if err := <-asking; err != nil {
			t.Error(err)
		}
		if c := connectionsOf(t, "?limit=10000"); c.Matched != sessions || len(c.Connections) != sessions {
			t.Errorf("%d of %d connections are listed, %d match", len(c.Connections), sessions, c.Matched)
		}
	})
}

// The status has the findings of the return path test, and those of the doctor once it
// was requested. The backend accepts no connection from either:
//
//	gateway :2000, transparent, without rules ──▶ backend :3000
//	└ admin :9180 ◀── /status.json, POST /-/examine
func TestStatusReportsSelfTestAndExamination(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.Listen(t, "127.0.0.1:3000")
		lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000?transparent=on", "--trust", "127.0.0.1",
			"--admin", adminAt)
		codes := func() (all []string, s admin.Status) {
			t.Helper()
			s = statusOf(t, adminAt)
			var findings []struct {
				Code   string
				Action []string
			}
			if err := json.Unmarshal(s.Findings, &findings); err != nil {
				t.Fatal(err)
			}
			for _, f := range findings {
				all = append(all, f.Code)
				if f.Code == "rules_missing" && len(f.Action) == 0 {
					t.Errorf("no commands in %+v", f)
				}
			}
			return all, s
		}
		var found []string
		var s admin.Status
		await.Until(t, "the return path was tested", func() bool {
			found, s = codes()
			return len(found) > 0
		})
		if !slices.Equal(found, []string{"rules_missing"}) || !s.Examined.IsZero() {
			t.Errorf("the test found %q, examined %v", found, s.Examined)
		}
		if code, _ := adminPost(t, "/-/examine"); code != http.StatusOK {
			t.Errorf("POST /-/examine: %d", code)
		}
		found, s = codes()
		for _, code := range []string{"rules_missing", "listener", "backend", "net_raw"} {
			if !slices.Contains(found, code) {
				t.Errorf("the doctor found %q, not %q", found, code)
			}
		}
		if s.Examined.IsZero() || backend.Accepted() > 0 {
			t.Errorf("examined %v; the backend accepted %d connections", s.Examined, backend.Accepted())
		}
	})
}

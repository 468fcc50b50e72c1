package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
)

func TestStatus(t *testing.T) {
	s, _ := busy()
	s.started = noon.Add(-time.Hour)
	s.config.Findings = func() (json.RawMessage, time.Time) { return json.RawMessage(`[{"code":"x"}]`), noon }
	s.config.Refusals.Note(&record.Connection{Outcome: record.NotProxy, Peer: peer(1)})
	s.config.Readiness.Set(readiness.Draining, "stop requested")
	w := ask(s, "GET", "/status.json")
	var got Status
	decoder := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if got.UptimeSeconds != 3600 || !got.Time.Equal(noon) || got.Version.Version != "v1.2.3" || got.PID == 0 {
		t.Errorf("version %+v, up %v s at %v, pid %d", got.Version, got.UptimeSeconds, got.Time, got.PID)
	}
	if got.Ready || len(got.Reasons) != 1 || got.LogDropped != 7 {
		t.Errorf("ready %v %v, %d lines dropped", got.Ready, got.Reasons, got.LogDropped)
	}
	if got.Active != 3 || got.Limit != 100 || !slices.Equal(got.Loops, []int{2, 1}) {
		t.Errorf("%d active, limit %d, loops %v", got.Active, got.Limit, got.Loops)
	}
	if len(got.Refusals) != 1 || got.Refusals[0].Hint == "" {
		t.Errorf("refusals %+v", got.Refusals)
	}
	if string(got.Findings) != `[{"code":"x"}]` || !got.Examined.Equal(noon) {
		t.Errorf("findings %s of %v", got.Findings, got.Examined)
	}
	if len(got.Forwards) != 3 {
		t.Fatalf("%d forwards", len(got.Forwards))
	}
	f := got.Forwards[0]
	if f.Name != ":8443" || !f.Transparent || f.Active != 1 || f.Accepted != 10 || f.Closed["ok"] != 1 ||
		f.BytesIn != 1000 || f.BytesOut != 2000 || f.PortFallbacks != 5 {
		t.Errorf("the first forward is %+v", f)
	}
	if f.ListenerCount != 20 || len(f.Listeners) != maxListeners ||
		f.Listeners[3] != (ListenerStatus{"0/3", "0.0.0.0:3", "db:5432"}) {
		t.Errorf("the first forward has %d listeners: %+v", f.ListenerCount, f.Listeners)
	}
	if second := got.Forwards[1]; second.Listeners[3] != (ListenerStatus{"1/3", "0.0.0.0:103", "db:5432"}) {
		t.Errorf("the second forward's listeners are %+v", second.Listeners)
	}
	wantBackends := []BackendStatus{
		{"192.0.2.8:5432", false, noon, "connection refused"}, {"db:5432 (192.0.2.7:5432)", true, time.Time{}, ""},
	}
	if !slices.Equal(f.Backends, wantBackends) || f.BackendsDown != 1 {
		t.Errorf("%d backends down of %+v", f.BackendsDown, f.Backends)
	}
	if third := got.Forwards[2]; len(third.Backends) != maxListeners || third.BackendsDown != 41 {
		t.Errorf("%d backends listed, %d down", len(third.Backends), third.BackendsDown)
	}
	for _, f := range got.Forwards {
		if f.Listeners == nil {
			t.Errorf("%s: listeners is null; want a list", f.Name)
		}
	}
	shared := []string{":8443", "127.0.0.1:0"}
	if len(got.Trust) != 2 || !slices.Equal(got.Trust[0].Forwards, shared) || len(got.Trust[1].Rules) != 0 {
		t.Fatalf("trust: %+v", got.Trust)
	}
	want := []RuleStatus{
		{"10.0.0.0/8", "10.0.0.0/8", "--trust", "", 1}, {"192.0.2.7", "192.0.2.7/32", "lb.txt:3", "", 0},
	}
	if !slices.Equal(got.Trust[0].Rules, want) {
		t.Errorf("rules %+v; want %+v", got.Trust[0].Rules, want)
	}
}

// Empty lists are lists in JSON. Findings are null if the host was never checked.
func TestEmptyStatus(t *testing.T) {
	w := ask(newServer(quiet(), nearby), "GET", "/status.json")
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"loops", "forwards", "trust", "refusals"} {
		if list, ok := got[key].([]any); !ok || len(list) != 0 {
			t.Errorf("%s is %v; want an empty list", key, got[key])
		}
	}
	if got["findings"] != nil || got["ready"] != true {
		t.Errorf("findings %v, ready %v", got["findings"], got["ready"])
	}
	for _, list := range got["history"].(map[string]any) {
		if list, ok := list.([]any); ok && len(list) != 0 {
			t.Errorf("history: %v", got["history"])
		}
	}
}

// An endpoint samples its gateway from Attach to Close.
func TestSampling(t *testing.T) {
	_, g := busy()
	s := newServer(quiet(), nearby)
	sampled := make(chan struct{}, 1)
	s.Attach(watched{g, sampled})
	<-sampled
	s.Close()
	if n := len(s.recorder.history(":8443").Active); n > 1 {
		t.Errorf("%d steps after one sample", n)
	}
}

// watched is a gateway that signals a call of Tallies.
type watched struct {
	*fake
	called chan<- struct{}
}

func (w watched) Tallies(ctx context.Context) ([]record.ForwardTally, error) {
	select {
	case w.called <- struct{}{}:
	default:
	}
	return w.fake.Tallies(ctx)
}

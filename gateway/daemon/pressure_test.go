package daemon

import (
	"testing"

	"github.com/rs/zerolog"

	"unproxy/gateway/config"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// Readiness follows the limits: near one, a forward is degraded; at the limit on connections it
// cannot serve; UDP is not concerned.
func TestPressure(t *testing.T) {
	c := &config.Config{MaxConnections: 100, MaxBuffer: 1000, Forwards: []*forward.Forward{
		{Name: ":1"}, {Name: ":2", MaxConnections: 10}, {Name: ":3", Datagrams: true}}}
	for _, row := range []struct {
		name     string
		counters engine.Counters
		files    usage
		serves   [3]bool
		words    [3]string // of the first reason
	}{
		{name: "idle", counters: engine.Counters{PerForward: []int{0, 0, 0}}, serves: [3]bool{true, true, true}},
		{name: "nearly all", counters: engine.Counters{Active: 90, PerForward: []int{88, 2, 0}},
			serves: [3]bool{true, true, true}, words: [3]string{readiness.Connections, readiness.Connections}},
		{name: "all", counters: engine.Counters{Active: 100, PerForward: []int{98, 2, 0}},
			serves: [3]bool{false, false, true}, words: [3]string{readiness.Connections, readiness.Connections}},
		{name: "one more than all, by another loop", counters: engine.Counters{Active: 101, PerForward: []int{99, 2, 0}},
			serves: [3]bool{false, false, true}, words: [3]string{readiness.Connections, readiness.Connections}},
		{name: "all of one forward", counters: engine.Counters{Active: 20, PerForward: []int{10, 10, 0}},
			serves: [3]bool{true, false, true}, words: [3]string{"", readiness.Connections}},
		{name: "nearly all of one forward", counters: engine.Counters{Active: 20, PerForward: []int{11, 9, 0}},
			serves: [3]bool{true, true, true}, words: [3]string{"", readiness.Connections}},
		{name: "buffers", counters: engine.Counters{Buffered: 1100, PerForward: []int{1, 1, 0}},
			serves: [3]bool{true, true, true}, words: [3]string{readiness.Buffers, readiness.Buffers}},
		{name: "files", counters: engine.Counters{PerForward: []int{1, 1, 0}}, files: usage{99, 100},
			serves: [3]bool{true, true, true}, words: [3]string{readiness.Descriptors, readiness.Descriptors}},
		{name: "files are not known", counters: engine.Counters{PerForward: []int{1, 1, 0}}, files: usage{0, 100},
			serves: [3]bool{true, true, true}},
	} {
		nop := zerolog.Nop()
		d := &daemon{config: Config{Gateway: c}, log: &nop}
		p := &pressure{daemon: d, told: map[string]bool{}}
		p.compare(&row.counters, row.files)
		report := d.readiness.Report(3)
		for i, f := range report.Forwards {
			word := ""
			if len(f.Reasons) > 0 {
				word = f.Reasons[0].Word
			}
			if f.Serves != row.serves[i] || word != row.words[i] {
				t.Errorf("%s: forward %d serves: %v, reasons %v", row.name, i, f.Serves, f.Reasons)
			}
		}
		p.compare(&engine.Counters{PerForward: []int{0, 0, 0}}, usage{})
		if left := d.readiness.Report(3).Impaired(); len(left) != 0 {
			t.Errorf("%s: afterwards %v", row.name, left)
		}
	}
}

// Memory is given back once after a burst, and not for small ones or while half is in use.
func TestBurstEnded(t *testing.T) {
	var r retained
	const mb = 1 << 20
	for i, step := range []struct {
		now  int64
		want bool
	}{{0, false}, {10 * mb, false}, {0, false}, {100 * mb, false}, {60 * mb, false}, {49 * mb, true}, {48 * mb, false},
		{10 * mb, true}, {10 * mb, false}, {0, false}} {
		if got := r.burstEnded(step.now); got != step.want {
			t.Errorf("step %d, %d bytes: %v", i, step.now, got)
		}
	}
}

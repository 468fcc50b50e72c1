package engine

import (
	"testing"

	"unproxy/gateway/record"
)

// A RST that came together with the header raises no other event: it is seen at
// once, though the bytes before it wait for the backend.
func TestResetTogetherWithTheHeader(t *testing.T) {
	for _, answer := range []plan{{}, silent} {
		k := newScript(t, 0)
		k.sendRoom = 10
		r := newRig(t, k, Config{Forwards: []*Forward{plain(serverA)}})
		r.plans[serverA] = []plan{answer}
		from := r.arrive(r.front(0), lb)
		from.deliver([]byte(header + "more than ten bytes"))
		from.abort()
		r.settle()
		phase := record.Relay
		if answer == silent {
			phase = record.Dial
		}
		r.ends(1, record.Reset, phase, record.Client)
		r.clean()
	}
}

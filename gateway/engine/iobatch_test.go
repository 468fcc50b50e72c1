package engine

import (
	"bytes"
	"fmt"
	"testing"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// More sockets than fit one batch are ready in the same turn: with complete, partial and truncated
// headers, then with requests and responses.
func TestManySocketsInOneTurn(t *testing.T) {
	for _, noBatches := range []bool{false, true} {
		k := newScript(t, 0)
		k.noBatches = noBatches
		r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
		const number = 3*batchSize + 1
		fronts := make([]*file, number)
		for i := range fronts {
			fronts[i] = r.arrive(r.listenerSocket(0), lb)
		}
		r.settle()
		for i, f := range fronts {
			switch i % 4 {
			case 0: // the rest comes later
				f.deliver([]byte(header[:20]))
			case 1:
				f.deliver([]byte(header[:20]))
				f.sendFIN()
			default:
				f.deliver([]byte(header + fmt.Sprint(i)))
			}
		}
		r.settle()
		for i, f := range fronts {
			if i%4 == 0 {
				f.deliver([]byte(header[20:] + fmt.Sprint(i)))
			}
		}
		r.settle()
		if len(r.dials)+len(r.records) != number || r.records[0].Outcome != record.Truncated {
			t.Fatalf("%d dialled and %d rejected of %d", len(r.dials), len(r.records), number)
		}
		for _, d := range r.dials {
			d.far.deliver(append([]byte("re: "), d.far.received...))
			d.far.deliver(bytes.Repeat([]byte("x"), slotSize)) // more than fits a slot
			d.far.sendFIN()
		}
		r.settle()
		for i, f := range fronts {
			want := append([]byte(fmt.Sprintf("re: %d", i)), bytes.Repeat([]byte("x"), slotSize)...)
			if i%4 != 1 && (!bytes.Equal(f.received, want) || !f.gotFIN) {
				t.Errorf("connection %d got %d bytes, FIN %v", i, len(f.received), f.gotFIN)
			}
			f.sendFIN()
		}
		r.settle()
		if len(r.records) != number {
			t.Errorf("%d of %d connections have ended", len(r.records), number)
		}
		r.expectClean()
	}
}

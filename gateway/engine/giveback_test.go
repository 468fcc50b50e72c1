package engine

import (
	"math/rand/v2"
	"testing"

	"unproxy/gateway/forward"
)

// After a burst the memory of ended connections is given back. Those that are open stay where they
// are and go on, references to others find nothing, and new ones are served.
func TestGiveBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	r := newForwardRig(t, plainForward(serverA))
	var peers, fars []*file
	const burst = 20 * blockSize
	for range burst {
		peers = append(peers, r.open(header))
		fars = append(fars, r.backend())
	}
	refs := map[sessionRef]bool{} // of those that end
	keep := map[int]bool{0: true, burst - 1: true}
	for range 5 {
		keep[random.IntN(burst)] = true
	}
	for i, from := range peers {
		if !keep[i] {
			refs[sessionOf(r, from).ref()] = true
			from.reset()
			r.settle()
		}
	}
	before := r.engine.Counters().Sessions
	if err := r.engine.GiveBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := r.engine.Counters().Sessions
	if before != burst || after > (len(keep)+1)*blockSize {
		t.Errorf("memory for %d sessions, then for %d, with %d open", before, after, len(keep))
	}
	for ref := range refs {
		if r.loop().sessions.find(ref) != nil {
			t.Error("the session of an ended connection was found")
		}
	}
	for i := range keep {
		peers[i].deliver([]byte("still here"))
		r.settle()
		if got := string(fars[i].received); got != "still here" {
			t.Errorf("connection %d received %q", i, got)
		}
	}
	for range 3 * blockSize {
		r.open(header)
	}
	if n := r.engine.Counters().Active; n != len(keep)+3*blockSize || len(r.sessions()) != n {
		t.Errorf("%d connections are active, %d listed", n, len(r.sessions()))
	}
	r.engine.Cut()
	r.settle()
	if err := r.engine.GiveBack(t.Context()); err != nil || r.engine.Counters().Sessions != blockSize {
		t.Errorf("%v; memory for %d sessions in the end, want one block", err, r.engine.Counters().Sessions)
	}
	if n := r.engine.Counters().Active; n != 0 {
		t.Errorf("%d connections are active", n)
	}
}

// Idle pipes are closed, those that hold bytes are not.
func TestGiveBackPipes(t *testing.T) {
	k := newScript(t, 0)
	k.sendRoom = 1 << 20
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	done, blocked := r.open(header), r.open(header)
	for _, d := range r.dials {
		d.far.deliver(randomBytes(4 << 20))
	}
	r.settle()
	for range 8 {
		done.consume(1 << 20)
		r.settle()
	}
	if n := r.engine.Counters().Pipes; n != 2 {
		t.Fatalf("%d pipes", n)
	}
	if err := r.engine.GiveBack(t.Context()); err != nil || r.engine.Counters().Pipes != 1 {
		t.Errorf("%v; %d pipes, want the one that is in use", err, r.engine.Counters().Pipes)
	}
	for range 8 {
		blocked.consume(1 << 20)
		r.settle()
	}
	if len(blocked.received) != 4<<20 {
		t.Errorf("%d bytes arrived", len(blocked.received))
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

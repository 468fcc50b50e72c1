package datagram

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// manyFlows starts n flows, of the clients at(0) to at(n-1), in this order.
func (r *rig) manyFlows(n int) {
	r.Helper()
	for i := range n {
		r.from(lb, at(i))
	}
	for _, s := range r.backs() {
		s.sent = nil
	}
	if got := len(r.backs()); got != n {
		r.Fatalf("%d flows, want %d", got, n)
	}
}

// Datagrams for many flows that are received with one call are sent with one call, and so are their
// replies.
func TestManyFlowsTakeOneCall(t *testing.T) {
	r := one(t, plain(server))
	r.manyFlows(batchSize)
	before := r.calls["io_submit"]
	var in []string
	for i := range batchSize {
		in = append(in, at(i)+fmt.Sprint(i))
	}
	r.from(lb, in...)
	if n := r.calls["io_submit"] - before; n != 1 {
		t.Errorf("%d calls for %d datagrams", n, batchSize)
	}
	var want []string
	for i, s := range r.backs() {
		s.took(t, fmt.Sprint(i))
		s.queue = append(s.queue, datagram{data: fmt.Sprint("re ", i)})
		want = append(want, to(lb, fmt.Sprint("re ", i)))
	}
	before = r.calls["io_submit"]
	r.settle()
	r.went(want...)
	if n := r.calls["io_submit"] - before; n > 2 {
		t.Errorf("%d calls for %d replies", n, batchSize)
	}
}

func TestErrorInAWriteBatchConcernsOneDatagram(t *testing.T) {
	rows := []struct {
		name  string
		errno []syscall.Errno // for the third of five flows
		lost  bool
		drops map[Drop]uint64
	}{
		{"none", nil, false, nil},
		{"interrupted twice", []syscall.Errno{unix.EINTR, unix.EINTR}, false, nil},
		{"too big", []syscall.Errno{unix.EMSGSIZE, unix.EMSGSIZE}, true, map[Drop]uint64{TooBig: 1}},
		{"path MTU decreased", []syscall.Errno{unix.EMSGSIZE}, false, nil},
		{"not permitted", []syscall.Errno{unix.EPERM, unix.EPERM}, true, map[Drop]uint64{Permission: 1}},
		{"not permitted once", []syscall.Errno{unix.EPERM}, false, nil},
		{"refused before", []syscall.Errno{unix.ECONNREFUSED}, false, map[Drop]uint64{BackendRefused: 1}},
		{"refused twice", []syscall.Errno{unix.ECONNREFUSED, unix.EINTR, unix.ECONNREFUSED}, true, map[Drop]uint64{BackendRefused: 2}},
		{"no route", []syscall.Errno{unix.ENETUNREACH, unix.ENETUNREACH}, true, map[Drop]uint64{BackendUnreachable: 2}},
		{"socket buffer full", []syscall.Errno{unix.EAGAIN}, true, map[Drop]uint64{BackendBusy: 1}},
		{"no buffers", []syscall.Errno{unix.ENOBUFS}, true, map[Drop]uint64{BackendBusy: 1}},
		{"refused before, socket buffer full", []syscall.Errno{unix.ECONNREFUSED, unix.EAGAIN}, true, map[Drop]uint64{BackendRefused: 1, BackendBusy: 1}},
	}
	for _, row := range rows {
		for _, noBatches := range []bool{false, true} {
			t.Run(fmt.Sprint(row.name, " ", noBatches), func(t *testing.T) {
				k := newScript(t)
				k.noBatches = noBatches
				r := newRig(t, 1, Config{Kernel: k}, plain(server))
				r.manyFlows(5)
				backs := r.backs()
				backs[2].failing = row.errno
				r.from(lb, at(0)+"0", at(1)+"1", at(2)+"2", at(3)+"3", at(4)+"4")
				for i, s := range backs {
					if i == 2 && row.lost {
						s.took(t)
						continue
					}
					s.took(t, fmt.Sprint(i))
				}
				r.dropped(row.drops)
				if len(backs[2].failing) > 0 {
					t.Errorf("%d scripted errors were not used", len(backs[2].failing))
				}
				r.from(lb, at(2)+"again")
				backs[2].took(t, "again")
				r.pass(time.Minute + time.Second)
				for _, c := range r.records {
					want := int64(2)
					if c.Client == client(2) {
						want = 3
						if row.lost {
							want = 2
						}
					}
					if c.DatagramsIn != want {
						t.Errorf("%v: datagrams_in %d, want %d", c.Client, c.DatagramsIn, want)
					}
				}
				r.clean()
			})
		}
	}
}

// Random datagrams of a few flows, in GSO batches and alone, empty and not, of one size
// and of many, some of which meet errors: what arrives of a flow arrives in order,
// what does not is counted, and batches change nothing.
func TestSortedLikeSingly(t *testing.T) {
	for seed := range uint64(20) {
		together, singly := playSorted(t, seed, false), playSorted(t, seed, true)
		if !slices.Equal(together, singly) {
			t.Errorf("seed %d: with batches\n%.1000q, without\n%.1000q", seed, together, singly)
		}
	}
}

// playSorted plays a history and returns everything observable about it.
func playSorted(t *testing.T, seed uint64, noBatches bool) (seen []string) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 7))
	k := newScript(t)
	k.noBatches = noBatches
	r := newRig(t, 1, Config{Kernel: k}, plain(server))
	sent, replies := make([][]string, 1+random.IntN(9)), map[string][]string{}
	r.manyFlows(len(sent))
	backs := r.backs()
	for step := range 30 {
		for range random.IntN(2 * batchSize) {
			r.listenerSocket(0).queue = append(r.listenerSocket(0).queue, randomMessage(random, sent))
		}
		for i, s := range backs {
			s.failing = randomErrors(random)
			for range random.IntN(3) * random.IntN(7) {
				flow := fmt.Sprint("from ", i)
				s.queue = append(s.queue, datagram{data: fmt.Sprint(flow, " at ", step, ": ", len(replies[flow]))})
				replies[flow] = append(replies[flow], s.queue[len(s.queue)-1].data)
			}
		}
		r.settle()
	}
	got := map[string][]string{}
	for _, d := range r.listenerSocket(0).sent {
		flow, _, _ := strings.Cut(d.data, " at ")
		got[flow] = append(got[flow], d.data)
	}
	if !reflect.DeepEqual(got, replies) {
		t.Errorf("seed %d: replies %.1000q, want %.1000q", seed, got, replies)
	}
	r.pass(time.Minute + time.Second)
	for i, s := range backs {
		arrived := texts(s.sent)
		if !inOrder(arrived, sent[i]) {
			t.Errorf("seed %d, flow %d: received %.1000q, sent %.1000q", seed, i, arrived, sent[i])
		}
		c := r.records[slices.IndexFunc(r.records, func(c record.Connection) bool { return c.Client == client(i) })]
		if c.DatagramsIn != 1+int64(len(arrived)) || c.BytesIn != int64(len(strings.Join(arrived, ""))) {
			t.Errorf("seed %d, flow %d: %d datagrams of %d bytes are counted, %d arrived", seed, i, c.DatagramsIn,
				c.BytesIn, len(arrived))
		}
		seen = append(seen, fmt.Sprint(c.Outcome, c.DatagramsIn, c.DatagramsOut, arrived))
	}
	r.clean()
	return append(seen, fmt.Sprint(r.relay.Counters()))
}

// randomMessage is a datagram of one of some flows, or a GSO batch of datagrams of any
// of them, whose payloads it puts down.
func randomMessage(random *rand.Rand, sent [][]string) (d datagram) {
	size := max(0, random.IntN(6)-1)
	count := 1
	if random.IntN(4) == 0 {
		count, d.segment = 1+random.IntN(40), len(at(0))+size
	}
	for range count {
		flow := random.IntN(len(sent))
		payload := fmt.Sprintf("%0*d", size, len(sent[flow]))
		payload = payload[len(payload)-size:]
		sent[flow] = append(sent[flow], payload)
		d.data += at(flow) + payload
	}
	d.peer = lb
	return d
}

// randomErrors returns the results of a flow's next calls.
func randomErrors(random *rand.Rand) (all []syscall.Errno) {
	errnos := []syscall.Errno{0, 0, 0, 0, unix.EINTR, unix.EMSGSIZE, unix.EPERM, unix.ECONNREFUSED, unix.EAGAIN, unix.EIO, unix.ENETUNREACH}
	for range random.IntN(6) * random.IntN(2) {
		all = append(all, errnos[random.IntN(len(errnos))])
	}
	return all
}

// inOrder reports whether some is a subsequence of all.
func inOrder(some, all []string) bool {
	for _, text := range all {
		if len(some) > 0 && some[0] == text {
			some = some[1:]
		}
	}
	return len(some) == 0
}

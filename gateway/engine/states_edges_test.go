package engine

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// A direct peer is the client itself: it sends no header, and what looks like one is payload. Peers
// that are not direct are treated as without the rule.
func TestDirectPeerSendsNoHeader(t *testing.T) {
	for _, tt := range []struct {
		name    string
		direct  forward.Addresses
		trust   prefixes
		payload string // that the backend gets; "" is a reset
	}{
		{"direct", only(lb), prefixes{}, header + "x"},
		{"direct, not trusted", only(lb), only(client4), header + "x"},
		{"trusted, another is direct", only(client4), only(lb), "x"},
		{"neither", only(client4), prefixes{}, ""},
		{"no rule", nil, prefixes{}, ""},
	} {
		f := plainForward(serverA)
		f.Direct, f.Trust = tt.direct, tt.trust
		r := newForwardRig(t, f)
		from := r.open(header + "x")
		if tt.payload == "" {
			r.expectEnd(1, record.Untrusted, record.Trust, record.Gateway)
			continue
		}
		if got := string(r.backend().received); got != tt.payload {
			t.Errorf("%s: the backend got %q, want %q", tt.name, got, tt.payload)
		}
		finishBoth(r, from)
		c := r.expectEnd(1, record.OK, record.Relay, record.Client)
		if named := c.Client == client4; named != (tt.payload == "x") {
			t.Errorf("%s: the client is %v", tt.name, c.Client)
		}
		r.expectClean()
	}
}

// What follows the header is sent before the connect is reported, as far as the backend takes it.
// The rest follows in order, in both cases.
func TestPayloadWithTheHeader(t *testing.T) {
	for _, answer := range []plan{{}, {waits: 1}, {waits: 3}} {
		for _, n := range []int{1, 9, 10, 11, 500} {
			r := newForwardRig(t, plainForward(serverA))
			r.sendRoom, r.plans[serverA] = 10, []plan{answer}
			payload := string(randomBytes(n))
			from := r.open(header + payload)
			for range n {
				r.settle()
				r.backend().consume(10)
			}
			if got := string(r.backend().received); got != payload {
				t.Errorf("%+v: %d of %d bytes arrived, or different ones", answer, len(got), n)
			}
			finishBoth(r, from)
			if c := r.expectEnd(1, record.OK, record.Relay, record.Client); c.BytesIn != int64(n) {
				t.Errorf("%+v: %d bytes are counted, want %d", answer, c.BytesIn, n)
			}
			r.expectClean()
		}
	}
}

// Nothing is read after a header that ends the connection, however much there is.
func TestNothingIsReadAfterTheLastHeader(t *testing.T) {
	for _, tt := range []struct {
		name    string
		setting func(*forward.Forward)
		sends   string
		outcome record.Outcome
		phase   record.Phase
	}{
		{"no header", nil, "GET / HTTP/1.1\r\n", record.NotProxy, record.Header},
		{"a denied client", func(f *forward.Forward) { f.DenyClient = only(client4) }, header,
			record.ClientDenied, record.Dial},
		{"UNKNOWN", func(f *forward.Forward) { f.RejectUnknown = true }, "PROXY UNKNOWN\r\n",
			record.NoAddress, record.Dial},
	} {
		for _, n := range []int{headerChunk, 2*headerChunk + 1} {
			f := plainForward(serverA)
			if tt.setting != nil {
				tt.setting(f)
			}
			r := newForwardRig(t, f)
			from := r.open(tt.sends + strings.Repeat("x", n-len(tt.sends)))
			if c := r.lastRecord(1); c.Outcome != tt.outcome || c.Phase != tt.phase {
				t.Errorf("%s, %d bytes: %v in %v", tt.name, n, c.Outcome, c.Phase)
			}
			if !from.gotRST || from.read > headerChunk {
				t.Errorf("%s, %d bytes: a RST: %v, %d bytes were read", tt.name, n, from.gotRST, from.read)
			}
			r.expectClean()
		}
	}
}

// A peer whose FIN arrives together with what is closed does not wait for the timeout: no event
// reports it again.
func TestCloseOfAPeerThatHasEnded(t *testing.T) {
	for _, tt := range []struct {
		name    string
		setting func(*forward.Forward)
		sends   string
		outcome record.Outcome
		phase   record.Phase
	}{
		{"LOCAL", closeLocal, local, record.OK, record.Header},
		{"LOCAL and more", closeLocal, local + strings.Repeat("x", 3*bufferSize), record.OK, record.Header},
		{"a health check", func(f *forward.Forward) { f.Health = only(lb) }, "GET", record.Empty, record.Trust},
	} {
		f := plainForward(serverA)
		tt.setting(f)
		r := newForwardRig(t, f)
		from := r.arrive(r.listenerSocket(0), lb)
		from.deliver([]byte(tt.sends))
		from.sendFIN()
		r.settle()
		r.expectEnd(1, tt.outcome, tt.phase, record.Gateway)
		if from.gotRST || !from.gotFIN {
			t.Errorf("%s: a RST: %v, a FIN: %v", tt.name, from.gotRST, from.gotFIN)
		}
		r.expectClean()
	}
}

// A backend on a unix socket has no keep-alive and no TCP option, and needs no timer for them.
func TestUnixBackendHasNoTCPOptions(t *testing.T) {
	f := plainForward(serverUnix)
	f.Mark, f.Keepalive, f.UserTimeout = 7, 15*time.Second, 20*time.Second
	r := newForwardRig(t, f)
	from := r.open(header + "one")
	from.deliver([]byte("two"))
	r.settle()
	if n := r.loop().wheel.count; n != 0 {
		t.Errorf("%d timers are armed", n)
	}
	from.deliver([]byte("three"))
	r.advance(20 * time.Second)
	for _, o := range r.backend().options {
		if o[0] == unix.IPPROTO_TCP || o[1] == unix.SO_KEEPALIVE || o[1] == unix.SO_MARK {
			t.Errorf("option %v of a unix socket", o)
		}
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
}

// The reason of a failed connect names the queue of a unix socket only if that is full.
func TestReasonOfUnixBackend(t *testing.T) {
	const full = "the backend's queue of connections is full"
	for _, tt := range []struct {
		backend forward.Endpoint
		errno   unix.Errno
		isFull  bool
	}{
		{serverUnix, unix.EAGAIN, true},
		{serverUnix, unix.ECONNREFUSED, false},
		{serverUnix, unix.ENOENT, false},
		{serverA, unix.EAGAIN, false},
	} {
		r := newForwardRig(t, plainForward(tt.backend))
		r.plans[tt.backend] = []plan{{errno: tt.errno}}
		r.open(header)
		r.advance(7 * time.Second)
		c := r.lastRecord(1)
		if strings.Contains(c.Reason, full) != tt.isFull || !strings.Contains(c.Reason, tt.errno.Error()) {
			t.Errorf("%v, %v: %q", tt.backend, tt.errno, c.Reason)
		}
	}
}

// A dial that lacks a descriptor ends with the connect timeout, or after two seconds in which no
// connection of the loop has ended, and not before.
func TestEndOfADialWithoutDescriptor(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		0: resourceTimeout, time.Second: time.Second, resourceTimeout: resourceTimeout, time.Minute: resourceTimeout,
	} {
		f := plainForward(serverA)
		f.ConnectTimeout = timeout
		r := newForwardRig(t, f)
		r.limit = r.used + 1
		from := r.open(header)
		r.clock += int64(want) - 1
		r.settle()
		if len(r.records) != 0 {
			t.Errorf("connect timeout %v: ended %v after %v", timeout, r.records[0].Outcome, r.records[0].Duration)
			continue
		}
		r.advance(2 * acceptPause) // the next attempt
		r.expectEnd(1, record.Limit, record.Dial, record.Gateway)
		if !from.gotRST {
			t.Errorf("connect timeout %v: the peer got no RST", timeout)
		}
		r.limit = 0
		r.advance(time.Second) // accepting goes on
		r.expectClean()
	}
	for timeout, want := range map[time.Duration]time.Duration{0: resourceTimeout, time.Second: time.Second} {
		f := plainForward(serverA)
		f.ConnectTimeout = timeout
		r := newForwardRig(t, f)
		r.limit = r.used + 1
		r.open(header)
		r.advance(want) // exactly
		r.expectEnd(1, record.Limit, record.Dial, record.Gateway)
	}
}

// While a connect lacks memory nothing is accepted, although accepting would succeed.
func TestNothingIsAcceptedWhileADialWaits(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{{errno: unix.ENOBUFS}, {}}
	first := r.open(header + "one")
	second := r.open(header + "two")
	if n := len(r.listenerSocket(0).list); n != 1 || len(r.dials) != 1 {
		t.Errorf("%d connections wait to be accepted, %d dials", n, len(r.dials))
	}
	r.advance(time.Second)
	if len(r.dials) != 3 || string(r.dials[1].far.received)+string(r.dials[2].far.received) != "onetwo" {
		t.Fatalf("%d dials", len(r.dials))
	}
	finishBothOf(r, first, 1)
	finishBothOf(r, second, 2)
	r.expectEnd(2, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// An EPOLLERR without an error, as for a message in the error queue, ends no connection.
func TestEPOLLERRWithoutAnError(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header)
	s := sessionOf(r, from)
	for _, side := range []int{peer, backend} {
		s.handleEvent(r.loop(), side, unix.EPOLLERR)
		r.settle()
	}
	if len(r.records) != 0 {
		t.Fatalf("ended %v: %s", r.records[0].Outcome, r.records[0].Reason)
	}
	from.deliver([]byte("x"))
	r.settle()
	if got := string(r.backend().received); got != "x" {
		t.Errorf("the backend got %q", got)
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
}

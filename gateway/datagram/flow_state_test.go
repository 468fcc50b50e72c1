package datagram

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// fullState returns a state with a value in every field.
func fullState(t testing.TB) flowState {
	t.Helper()
	details := &record.Details{}
	for i := range reflect.TypeFor[record.Details]().NumField() {
		switch v := reflect.ValueOf(details).Elem().Field(i); v.Kind() {
		case reflect.String:
			v.SetString("\xff" + strings.Repeat(string(rune('a'+i)), record.MaxDetail-1))
		case reflect.Bool:
			v.SetBool(true)
		default:
			v.SetUint(uint64(1000 + i))
		}
	}
	s := flowState{
		bound: listener4, index: 3, mode: forward.SimpleProxy, mark: 0x7fffffff, spoof: true, byPeer: true,
		peer: lb6, client: client6, destination: dest6, backend: server6, source: client6,
		reply: address{
			name:       unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: 1, Flowinfo: 2, Addr: [16]byte{3}, Scope_id: 4},
			nameLength: unix.SizeofSockaddrInet6, local: [16]byte{5},
		},
		spp: []byte(spp(client6, dest6)), version: 2, attempt: 255, alternatives: true, claimed: true, bulk: true,
		age: 1 << 60, idle: 2 * time.Second, unheard: 3, packetsIn: 1 << 62, bytesIn: 5, packetsOut: 6, bytesOut: 7,
		lastError: syscall.ECONNREFUSED, details: details,
	}
	for v, i := reflect.ValueOf(s), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("fullState sets no value for %s", v.Type().Field(i).Name)
		}
	}
	for v, i := reflect.ValueOf(*details), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("fullState sets no value for %s", v.Type().Field(i).Name)
		}
	}
	return s
}

// states are a full state and an almost empty one.
func states(t testing.TB) []flowState {
	plain := flowState{bound: listener4, peer: lb, backend: server, spp: []byte{},
		reply: address{name: unix.RawSockaddrInet6{Family: unix.AF_INET}, nameLength: unix.SizeofSockaddrInet4}}
	return []flowState{fullState(t), plain}
}

// Every field of a flow survives encoding, including fields added to the types later.
func TestFlowStateRoundTrip(t *testing.T) {
	for _, s := range states(t) {
		message := appendFlow(appendFlow(nil, &s), &s)
		for range 2 {
			got, rest, ok := cutFlow(message)
			if !ok || !reflect.DeepEqual(got, s) {
				t.Errorf("%v\ngot  %+v\nwant %+v", ok, got, s)
			}
			message = rest
		}
		if len(message) != 0 {
			t.Errorf("%d bytes are left, want 0", len(message))
		}
	}
}

// A truncated flow is refused. A flow with unknown fields after the known ones is read.
func TestFlowStateCutShort(t *testing.T) {
	for _, s := range states(t) {
		var c codec
		s.fields(&c)
		for n := range len(c.b) {
			var all codec
			part := c.b[:n]
			all.bytes(&part)
			if _, _, ok := cutFlow(all.b); ok {
				t.Errorf("a flow was read from the first %d bytes of %d", n, len(c.b))
			}
			if _, _, ok := cutFlow(all.b[:len(all.b)/2]); ok {
				t.Errorf("a flow was read from a truncated message of %d bytes", n)
			}
		}
		var all codec
		more := append(bytes.Clone(c.b), "a new field"...)
		all.bytes(&more)
		if got, rest, ok := cutFlow(all.b); !ok || len(rest) != 0 || !reflect.DeepEqual(got, s) {
			t.Errorf("with an unknown field: %v, %d bytes are left", ok, len(rest))
		}
	}
}

// States that no process writes are refused.
func TestInvalidFlowStateIsRefused(t *testing.T) {
	for name, change := range map[string]func(*flowState){
		"no listener":            func(s *flowState) { s.bound = netip.AddrPort{} },
		"no peer":                func(s *flowState) { s.peer = netip.AddrPort{} },
		"no backend":             func(s *flowState) { s.backend = netip.AddrPort{} },
		"half a header":          func(s *flowState) { s.spp = s.spp[:10] },
		"a claim on nothing":     func(s *flowState) { s.source = netip.AddrPort{} },
		"too long ago":           func(s *flowState) { s.idle = longest + 1 },
		"a reply to nowhere":     func(s *flowState) { s.reply = address{} },
		"a short name":           func(s *flowState) { s.reply.nameLength-- },
		"a long detail":          func(s *flowState) { s.details = &record.Details{ALPN: strings.Repeat("x", record.MaxDetail+1)} },
		"a negative counter":     func(s *flowState) { s.bytesIn = -1 },
		"a name of unix sockets": func(s *flowState) { s.reply.name.Family = unix.AF_UNIX },
	} {
		s := fullState(t)
		change(&s)
		if _, _, ok := cutFlow(appendFlow(nil, &s)); ok {
			t.Errorf("%s: the state was read, want it refused", name)
		}
	}
}

// A message that holds anything is answered, with a verdict for each flow at most;
// every descriptor ends up in a flow or closed; and what is taken can be served.
func FuzzTake(f *testing.F) {
	for _, s := range states(f) {
		s.spoof, s.mode, s.mark, s.index = false, forward.EveryDatagram, 0, 0
		f.Add(appendFlow([]byte{handoverVersion, flowsMessage}, &s))
	}
	f.Add([]byte{handoverVersion, beginMessage})
	f.Add([]byte{handoverVersion + 1, flowsMessage, 1, 1})
	f.Fuzz(func(t *testing.T, message []byte) {
		r := newRig(t, 1, Config{}, plain(server, server6))
		w := r.worker()
		w.phase = waiting
		w.relay.inherited[inheritedSocket{listener4, 0}] = w.listeners[0]
		var fds []int
		for range 3 {
			fd, _ := r.Socket(unix.AF_INET)
			fds = append(fds, fd)
		}
		r.hosts[0].atOnce = true
		answer := r.relay.Take(message, fds)
		r.hosts[0].atOnce = false
		if answer[0] != handoverVersion || len(answer) > 1+mostFlowsAtOnce {
			t.Fatalf("the answer is %x", answer)
		}
		if flows := len(r.flows()); len(r.backs()) != flows || r.relay.Counters().Flows != flows {
			t.Fatalf("%d sockets are open for %d flows", len(r.backs()), flows)
		}
		r.relay.Serve()
		r.settle()
		r.from(lb, a+"hello")
		w.Close()
		r.clean()
	})
}

// Whatever is read as a flow is written as the same one.
func FuzzFlowState(f *testing.F) {
	for _, s := range states(f) {
		f.Add(appendFlow(nil, &s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		s, rest, ok := cutFlow(message)
		if len(rest) > len(message) || !ok {
			return
		}
		again, rest, ok := cutFlow(appendFlow(nil, &s))
		if !ok || len(rest) != 0 || !reflect.DeepEqual(s, again) {
			t.Errorf("%v\nread    %+v\nwritten %+v", ok, s, again)
		}
	})
}

package engine

import (
	"net/netip"
	"testing"

	"unproxy/gateway/record"
)

// A unix backend that sends a greeting and closes before the gateway has seen the connect did not
// refuse: the greeting reaches the client.
func TestUnixBackendSendsAndCloses(t *testing.T) {
	r := newForwardRig(t, plainForward(serverUnix))
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliver([]byte(header))
	for len(r.dials) == 0 {
		r.turn()
	}
	r.backend().deliver([]byte("421 too busy\r\n"))
	r.backend().hangUp()
	r.settle()
	from.sendFIN()
	r.settle()
	if got := string(from.received); got != "421 too busy\r\n" {
		t.Errorf("the client got %q", got)
	}
	r.expectEnd(1, record.OK, record.Relay, record.Backend)
	r.expectClean()
}

// A unix peer that writes and closes has not reset: its bytes are forwarded.
func TestUnixPeerSendsAndCloses(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{{waits: 2}}
	from := r.arrive(r.listenerSocket(0), netip.AddrPort{})
	from.deliver([]byte(header + "QUIT\r\n"))
	for len(r.dials) == 0 {
		r.turn()
	}
	from.hangUp()
	r.settle()
	if got := string(r.backend().received); got != "QUIT\r\n" || !r.backend().gotFIN {
		t.Errorf("the backend got %q, a FIN: %v", got, r.backend().gotFIN)
	}
	r.backend().sendFIN()
	r.settle()
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// A client that resets during the dial ends the session at once.
func TestResetWhileDialling(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{silent}
	sendRST(r, r.open(header+"payload"))
	r.expectEnd(1, record.Reset, record.Dial, record.Client)
	r.expectClean()
}

// A FIN that arrives during the dial reaches the backend after the bytes.
func TestFINWhileDialling(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{{waits: 3}}
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliver([]byte(header + "pay"))
	r.turn()
	from.deliver([]byte("load"))
	from.sendFIN()
	r.settle()
	if got := string(r.backend().received); got != "payload" || !r.backend().gotFIN {
		t.Errorf("the backend got %q, a FIN: %v", got, r.backend().gotFIN)
	}
	r.backend().sendFIN()
	r.settle()
	r.expectEnd(1, record.OK, record.Relay, record.Client)
}

func TestDrainWhileDialling(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.plans[serverA] = []plan{silent}
	from := r.open(header)
	r.engine.Cut()
	r.settle()
	r.expectEnd(1, record.Drained, record.Dial, record.Gateway)
	if !from.gotRST {
		t.Error("no RST")
	}
	r.expectClean()
}

package engine

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// A FIN that cannot be sent ends the connection with a RST to both ends, after what the other end sent
// before. An interrupted call is repeated.
func TestFINThatCannotBeSent(t *testing.T) {
	for _, row := range []struct {
		errno   unix.Errno
		outcome record.Outcome
		by      record.Party // invalid: the end that the FIN was for
	}{
		{unix.EPERM, record.Internal, record.Gateway},
		{unix.EBADF, record.Internal, record.Gateway},
		{unix.ENOMEM, record.Limit, record.Gateway},
		{unix.ENOBUFS, record.Limit, record.Gateway},
		{errno: unix.ENOTCONN, outcome: record.Reset},
		{errno: unix.EINTR, outcome: record.OK},
	} {
		for _, from := range []int{peer, backend} {
			r := newForwardRig(t, plainForward(serverA))
			ends := [2]*file{r.open(header)}
			ends[backend] = r.backend()
			r.shutdownErrors = []unix.Errno{row.errno, row.errno} // twice: ENOTCONN alone is looked into
			ends[from].deliver([]byte("the last words"))
			ends[from].sendFIN()
			ends[1-from].deliver([]byte("the answer"))
			r.settle()
			by := row.by
			if row.outcome == record.Reset {
				by = party(1 - from)
			}
			if row.outcome == record.OK {
				by = party(from)
				ends[1-from].sendFIN()
				r.settle()
			}
			if c := r.expectEnd(1, row.outcome, record.Relay, by); by == record.Gateway && c.Reason != row.errno.Error() {
				t.Errorf("%v: the reason is %q", row.errno, c.Reason)
			}
			words, answer := string(ends[1-from].received), string(ends[from].received)
			if words != "the last words" || answer != "the answer" {
				t.Errorf("%v: %q and %q arrived", row.errno, words, answer)
			}
			for i, f := range ends {
				if reset := row.outcome != record.OK; f.gotRST != reset || f.gotFIN == reset {
					t.Errorf("%v: end %d got a FIN: %v, a RST: %v", row.errno, i, f.gotFIN, f.gotRST)
				}
			}
			r.expectClean()
		}
	}
}

// The FIN of one end meets a connection to the other that was reset a moment ago: the kernel refuses
// shutdown(2). What the other end sent decides: its bytes arrive, then its FIN, if it sent one, else the RST.
func TestFINToConnectionThatEnded(t *testing.T) {
	for _, sentFIN := range []bool{false, true} {
		for _, from := range []int{peer, backend} {
			for _, blocked := range []bool{false, true} {
				r := newForwardRig(t, plainForward(serverA))
				ends := [2]*file{r.open(header)}
				ends[backend] = r.backend()
				answer := strings.Repeat("the answer ", 100)
				if blocked {
					ends[from].room = 50 // its own end reads slowly
				}
				ends[from].sendFIN()
				ends[1-from].deliver([]byte(answer))
				if sentFIN {
					ends[1-from].sendFIN()
				}
				ends[1-from].reset()
				for range 2 * len(answer) {
					r.settle()
					ends[from].consume(1 << 20)
				}
				got := string(ends[from].received)
				switch {
				case blocked && !strings.HasPrefix(answer, got), !blocked && got != answer:
					t.Errorf("sent a FIN %v, from %d, blocked %v: %d of %d bytes arrived", sentFIN, from, blocked,
						len(got), len(answer))
				case sentFIN && !blocked:
					if c := r.lastRecord(1); c.Outcome != record.OK {
						t.Errorf("ended %v by %v: %s", c.Outcome, c.By, c.Reason)
					}
				default:
					r.expectEnd(1, record.Reset, record.Relay, party(1-from))
				}
				if f := ends[from]; f.gotRST != (r.records[0].Outcome == record.Reset) || f.gotFIN == f.gotRST {
					t.Errorf("%v: a FIN: %v, a RST: %v", r.records[0].Outcome, f.gotFIN, f.gotRST)
				}
				r.expectClean()
			}
		}
	}
}

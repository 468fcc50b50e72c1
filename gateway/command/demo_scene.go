package command

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scene is one connection of a load balancer, and what ought to come of it.
type scene struct {
	// what says in words what is sent.
	what string
	// from is the address that the load balancer connects from; the zero
	// Addr leaves it to the kernel.
	from netip.Addr
	// parts are sent one after the other, each in a segment of its own.
	parts [][]byte
	want  expectation
}

// expectation is what a scene ought to come to.
type expectation struct {
	// seen is whom the old server sees: an address with its port, an address
	// alone where the port is any, or "" where the server is not to be
	// reached at all.
	seen string
	// payload is what the old server is to receive.
	payload string
	// logged are keys of the gateway's log line and their values. The value
	// "the peer" is the load balancer's own address.
	logged [][2]string
}

// thePeer stands for the load balancer's address and port in an expectation.
const thePeer = "the peer"

// outcome is what a scene came to.
type outcome struct {
	own   netip.AddrPort // the load balancer's end
	reply string         // what came back to it
	visit *visit         // nil if the old server was not reached
	line  logLine
}

// play sends what the scene says and gathers what everybody saw.
func (s *scene) play(on *stage, server *oldServer) (*outcome, error) {
	o := &outcome{}
	if err := s.send(on.at, o); err != nil {
		return nil, err
	}
	line, err := on.nextLine()
	if err != nil {
		return nil, err
	}
	o.line = line
	wait := 100 * time.Millisecond // for a visit that ought not to be
	if s.want.seen != "" {
		wait = patience
	}
	select {
	case v := <-server.visits:
		o.visit = &v
	case <-time.After(wait):
	}
	return o, nil
}

// send plays the load balancer. That the gateway resets the connection is not
// an error here: it is what some scenes are for.
func (s *scene) send(to netip.AddrPort, o *outcome) error {
	dialer := net.Dialer{Timeout: patience}
	if s.from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.from, 0))
	}
	c, err := dialer.Dial("tcp", to.String())
	if gone(err) {
		return nil // reset as soon as it was accepted
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	o.own = c.LocalAddr().(*net.TCPAddr).AddrPort()
	for i, part := range s.parts {
		if i > 0 {
			time.Sleep(2 * time.Millisecond) // or the kernel would join them again
		}
		if _, err := c.Write(part); err != nil && !gone(err) {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil && !gone(err) {
		return err
	}
	reply, err := io.ReadAll(c)
	if err != nil && !gone(err) {
		return err
	}
	o.reply = string(reply)
	return nil
}

// gone reports whether the other side ended the connection.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// check compares what came out with what ought to.
func (e *expectation) check(o *outcome) []string {
	var wrong []string
	differ := func(what, got, want string) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %s; it ought to be %s", what, orNothing(got), orNothing(want)))
		}
	}
	seen, payload := "", ""
	if o.visit != nil {
		seen, payload = o.visit.peer.String(), string(o.visit.payload)
		if _, err := netip.ParseAddr(e.seen); err == nil {
			seen = o.visit.peer.Addr().String()
		}
	}
	if o.visit != nil && o.line.text("outcome") == "ok" {
		differ("the greeting that came back", o.reply, fmt.Sprintf("220 you are %s\r\n", o.visit.peer))
	}
	differ("the old server saw", seen, e.seen)
	differ("the payload", payload, e.payload)
	for _, kv := range e.logged {
		want := kv[1]
		if want == thePeer {
			want = o.own.String()
		}
		differ("logged "+kv[0], o.line.text(kv[0]), want)
	}
	return wrong
}

// orNothing makes an empty text visible.
func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return fmt.Sprintf("%q", s)
}

// seenText says what the old server saw.
func (o *outcome) seenText() string {
	switch {
	case o.visit == nil:
		return "nothing"
	case len(o.visit.payload) == 0:
		return o.visit.peer.String() + " who sent nothing"
	}
	return fmt.Sprintf("%s who sent %q", o.visit.peer, o.visit.payload)
}

// loggedText gives the log line's outcome and what it says of the client.
func (o *outcome) loggedText() string {
	parts := []string{o.line.text("outcome")}
	for _, key := range []string{"reason", "client", "source", "authority", "unique_id", "tls_cn", "aws_vpce"} {
		v := o.line.text(key)
		if v == "" || key == "client" && v == o.own.String() {
			continue
		}
		parts = append(parts, key+"="+v)
	}
	return strings.Join(parts, " ")
}

// playAll plays scenes and shows each. It returns how many did not come out as
// they ought to.
func playAll(out *screen, on *stage, server *oldServer, scenes []scene) (int, error) {
	failed := 0
	for _, s := range scenes {
		o, err := s.play(on, server)
		if err != nil {
			return failed, fmt.Errorf("play %q: %w", s.what, err)
		}
		wrong := s.want.check(o)
		if len(wrong) > 0 {
			failed++
		}
		out.result(s.what, o.seenText(), o.loggedText(), wrong)
	}
	return failed, nil
}

// verdictOf is the error for scenes that went wrong.
func verdictOf(failed, all int) error {
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d rows are not what they ought to be", failed, all)
}

// oneByOne cuts b into single bytes.
func oneByOne(b []byte) [][]byte { return slices.Collect(slices.Chunk(b, 1)) }

package demo

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

// scene is one connection of a load balancer, and the expected result.
type scene struct {
	// what describes what is sent.
	what string
	// from is the address that the load balancer connects from. The zero Addr
	// leaves the choice to the kernel.
	from netip.Addr
	// parts are sent one after another, each in its own segment.
	parts [][]byte
	want  expectation
	// tested means that the gateway tests the backend. On a busy machine the backend
	// sees the empty connection of the test.
	tested bool
}

// expectation is the expected result of a scene.
type expectation struct {
	// seen is the peer that the backend sees: an address with its port, or an
	// address alone if the port is arbitrary. "" means that the backend must
	// not be reached.
	seen string
	// payload is what the backend must receive.
	payload string
	// logged are keys of the gateway's log line and their values; [thePeer]
	// stands for the address of the load balancer.
	logged [][2]string
}

// thePeer stands for the load balancer's address and port in an expectation.
const thePeer = "the peer"

// outcome is the result of a scene.
type outcome struct {
	own   netip.AddrPort // the load balancer's end
	reply string         // what it received
	visit *visit         // nil if the backend was not reached
	line  logLine
}

// play sends the parts of the scene, and collects what the load balancer, the
// backend and the log saw.
func (s *scene) play(on *stage, server *backend) (*outcome, error) {
	o := &outcome{}
	if err := s.send(on.at, o); err != nil {
		return nil, err
	}
	line, err := on.nextLine()
	if err != nil {
		return nil, err
	}
	o.line = line
	wait := 100 * time.Millisecond // long enough for an unexpected connection
	if s.want.seen != "" {
		wait = patience
	}
	select {
	case v := <-server.visits:
		if !s.tested || len(v.payload) > 0 {
			o.visit = &v
		}
	case <-time.After(wait):
	}
	return o, nil
}

// send acts as the load balancer. A reset is no error: some scenes provoke it.
func (s *scene) send(to netip.AddrPort, o *outcome) error {
	dialer := net.Dialer{Timeout: patience}
	if s.from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.from, 0))
	}
	c, err := dialer.Dial("tcp", to.String())
	if gone(err) {
		return nil // reset as soon as the gateway accepted
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	o.own = c.LocalAddr().(*net.TCPAddr).AddrPort()
	for i, part := range s.parts {
		if i > 0 {
			time.Sleep(2 * time.Millisecond) // or the kernel would merge them
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

// gone reports whether the other side reset the connection.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// check returns each difference between the outcome and what was expected.
func (e *expectation) check(o *outcome) []string {
	var differences []string
	differ := func(what, got, want string) {
		if got != want {
			differences = append(differences, fmt.Sprintf("%s: %s, expected %s", what, orNothing(got), orNothing(want)))
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
		differ("the greeting of the backend", o.reply, fmt.Sprintf("220 you are %s\r\n", o.visit.peer))
	}
	differ("the backend saw", seen, e.seen)
	differ("the payload", payload, e.payload)
	for _, kv := range e.logged {
		want := kv[1]
		if want == thePeer {
			want = o.own.String()
		}
		differ("logged "+kv[0], o.line.text(kv[0]), want)
	}
	return differences
}

// orNothing quotes a text, or returns a word for an empty one.
func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return fmt.Sprintf("%q", s)
}

// seenText describes what the backend saw.
func (o *outcome) seenText() string {
	switch {
	case o.visit == nil:
		return "nothing"
	case len(o.visit.payload) == 0:
		return o.visit.peer.String() + " sent nothing"
	}
	return fmt.Sprintf("%s sent %q", o.visit.peer, o.visit.payload)
}

// loggedText returns the outcome in the log line, and its keys about the client.
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

// playAll plays scenes and shows each. It returns how many differ from what was
// expected.
func playAll(out *screen, on *stage, server *backend, scenes []scene) (int, error) {
	failed := 0
	for _, s := range scenes {
		o, err := s.play(on, server)
		if err != nil {
			return failed, fmt.Errorf("play %q: %w", s.what, err)
		}
		differences := s.want.check(o)
		if len(differences) > 0 {
			failed++
		}
		out.result([...]string{s.what, o.seenText(), o.loggedText()}, differences)
	}
	return failed, nil
}

// failure returns the error for scenes that differ, or nil if none does.
func failure(failed, all int) error {
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d rows are not as expected", failed, all)
}

// oneByOne splits b into single bytes.
func oneByOne(b []byte) [][]byte { return slices.Collect(slices.Chunk(b, 1)) }

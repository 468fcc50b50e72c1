package page_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// scene is traffic through a gateway.
type scene struct {
	long    bool
	ended   chan struct{} // closed to end the traffic
	traffic sync.WaitGroup
}

// The addresses in the scene.
var (
	balancers = []string{"10.0.0.2", "10.0.0.3"}
	untrusted = "10.0.7.9"
	listeners = []string{"10.0.0.1:2222", "10.0.0.1:2525", "10.0.0.1:5432"}
	backends  = []string{"127.0.0.1:22", "127.0.0.1:25", "127.0.0.1:5433"}
	// longest is the number of the client with the longest address and name.
	longest = 5
	hosts   = []string{"git.example.org", "mx1.example.org", "db.example.org"}
)

// play starts a gateway with a return path for its transparent forward, and bounded traffic
// through it that ends with the test.
func play(t *testing.T, long bool) *scene {
	t.Helper()
	for _, a := range append([]string{"10.0.0.1", untrusted}, balancers...) {
		netns.IP(t, "address add "+a+"/32 dev lo")
	}
	netns.IP(t, "route replace local default dev lo table 7700")
	netns.IP(t, "rule add from 127.0.0.1/32 iif lo ipproto tcp sport 22 lookup 7700 pref 7700")
	for _, a := range backends {
		answer(t, a)
	}
	lab.StartGateway(t, "--admin", adminAt, "--trust", "10.0.0.2", "--trust", "10.0.0.3", "--trust", "cloudflare",
		"--forward", listeners[0]+"="+backends[0]+"?transparent=on", "--forward", listeners[1]+"="+backends[1],
		"--forward", listeners[2]+"="+backends[2]+",127.0.0.1:5434")
	s := &scene{long: long, ended: make(chan struct{})}
	for i := range 6 { // clients that stay connected
		s.traffic.Go(func() { s.converse(i%3, i, s.ended) })
	}
	s.traffic.Go(s.comeAndGo)
	s.traffic.Go(s.knock)
	t.Cleanup(func() {
		close(s.ended)
		s.traffic.Wait()
	})
	return s
}

// last waits, for pictures, until the plots are full.
func (s *scene) last(t *testing.T) {
	t.Helper()
	if s.long {
		time.Sleep(310 * time.Second)
	}
}

// answer starts a backend. The first byte of each request is the size of the response in
// kilobytes.
func answer(t *testing.T, address string) {
	t.Helper()
	lab.Serve(t, address, func(c net.Conn) {
		request := make([]byte, 1024)
		for {
			if _, err := io.ReadFull(c, request); err != nil {
				return
			}
			if _, err := c.Write(make([]byte, 1000*int(request[0]))); err != nil {
				return
			}
		}
	})
}

// call connects to a forward from an address and sends text. It returns nil if that fails.
func call(from string, forward int, text []byte) net.Conn {
	dialer := net.Dialer{Timeout: await.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := dialer.Dial("tcp", listeners[forward])
	if err != nil {
		return nil
	}
	c.SetDeadline(time.Now().Add(10 * time.Minute)) // longer than any scene
	if _, err := c.Write(text); err != nil {
		c.Close()
		return nil
	}
	return c
}

// header returns the header of a client with a number.
func header(forward, client int) []byte {
	if client == longest {
		from := netip.MustParseAddrPort("[2001:db8:1234:5678:9abc:def0:1234:5678]:45678")
		return lab.V2(from, netip.MustParseAddrPort("[2001:db8::1]:443"),
			authority(strings.Repeat("a-long-name.", 8)+"example")...)
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + client%250)}), uint16(40000+client))
	return lab.V2(from, destination, authority(hosts[forward])...)
}

// converse sends requests over one connection until the end.
func (s *scene) converse(forward, client int, end <-chan struct{}) {
	c := call(balancers[client%len(balancers)], forward, header(forward, client))
	if c == nil {
		return
	}
	defer c.Close()
	s.exchange(c)
	for range 2000 {
		select {
		case <-end:
			return
		case <-time.After(time.Duration(50+rand.IntN(400)) * time.Millisecond):
			s.exchange(c)
		}
	}
}

// exchange sends a request and reads the response.
func (s *scene) exchange(c net.Conn) {
	request := make([]byte, 1024)
	request[0] = byte(1 + rand.IntN(60))
	c.Write(request)
	io.ReadFull(c, make([]byte, 1000*int(request[0])))
}

// comeAndGo makes at most 4000 short connections, at a varying rate.
func (s *scene) comeAndGo() {
	for i := range 4000 {
		wave := 20 + 60*(1+(i/40)%5)
		select {
		case <-s.ended:
			return
		case <-time.After(time.Duration(rand.IntN(wave)) * time.Millisecond):
		}
		forward := i % 3
		if c := call(balancers[i%2], forward, header(forward, 100+i)); c != nil {
			s.exchange(c)
			c.Close()
		}
	}
}

// knock makes at most 1000 connections that are refused for several reasons.
func (s *scene) knock() {
	for i := range 1000 {
		var c net.Conn
		switch {
		case i%3 == 0:
			c = call(untrusted, i%2, nil)
		case i%3 == 1:
			c = call(balancers[0], 2, fmt.Appendf(nil, "GET /?%d HTTP/1.1\r\nHost: db.example.org\r\n\r\n", i))
		default:
			loopback := netip.MustParseAddrPort("127.0.0.1:4711")
			c = call(balancers[1], 0, lab.V2(loopback, destination))
		}
		if c != nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
		select {
		case <-s.ended:
			return
		case <-time.After(time.Duration(100+rand.IntN(1500)) * time.Millisecond):
		}
	}
}

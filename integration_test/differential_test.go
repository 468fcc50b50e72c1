package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The receivers of the differential test, by the port on which they listen. Each has a
// backend, on a port that is 1000 higher.
const (
	receiverUnproxy = "127.0.0.1:2001"
	receiverHAProxy = "127.0.0.1:2002"
	receiverNginx   = "127.0.0.1:2003"
)

// differentialPayload follows each header.
const differentialPayload = "GET / HTTP/1.0\r\n\r\n"

// mutants is the number of inputs that are made from valid ones.
const mutants = 200

// differentialInput is what is sent to each receiver, followed by a FIN.
type differentialInput struct {
	name  string
	bytes []byte
}

// verdict is what became of an input.
type verdict struct {
	accepted bool
	client   string // "peer" if the header names none
	payload  string // what the backend got
}

func (v verdict) String() string {
	if !v.accepted {
		return "refused"
	}
	return fmt.Sprintf("client %s, payload of %d bytes %.40q", v.client, len(v.payload), v.payload)
}

// HAProxy and nginx get what the gateway gets. All three must agree whether the header is
// accepted, who the client is and what the payload is, except for the differences that
// [explanations] lists:
//
//	      ┌──▶ gateway :2001 ─────────────▶ :3001
//	input ┼──▶ HAProxy :2002 ──send-proxy─▶ :3002
//	      └──▶ nginx   :2003 ──v1 header──▶ :3003
//
// The gateway logs the client; the others tell their backends.
func TestReceiversAgree(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "nginx")
		g := startReceivers(t)
		inputs := differentialInputs(t)
		verdicts := map[string][]verdict{}
		peers := make([]string, len(inputs))
		for _, at := range []string{receiverUnproxy, receiverHAProxy, receiverNginx} {
			verdicts[at] = make([]verdict, len(inputs))
		}
		inParallel(len(inputs), func(i int) {
			for at, all := range verdicts {
				v, peer := deliver(t, at, inputs[i].bytes)
				all[i] = v
				if at == receiverUnproxy {
					peers[i] = peer
				}
			}
		})
		fillClients(t, g, verdicts[receiverUnproxy], peers)
		compareReceivers(t, inputs, verdicts)
	})
}

// startReceivers starts the three and their backends.
func startReceivers(t *testing.T) *lab.Gateway {
	t.Helper()
	lab.Serve(t, "127.0.0.1:3001", func(c net.Conn) { report(c, false) })
	lab.Serve(t, "127.0.0.1:3002", func(c net.Conn) { report(c, true) })
	lab.Serve(t, "127.0.0.1:3003", func(c net.Conn) { report(c, true) })
	lab.HAProxy(t, haproxyPreamble+`
listen all
  bind `+receiverHAProxy+` accept-proxy
  server backend 127.0.0.1:3002 send-proxy`, receiverHAProxy)
	lab.Nginx(t, `load_module `+streamModule(t)+`;
events {}
stream {
  server {
    listen `+receiverNginx+` proxy_protocol;
    set_real_ip_from 127.0.0.1;
    proxy_pass 127.0.0.1:3003;
    proxy_protocol on;
    proxy_half_close on;
  }
}`, receiverNginx)
	return lab.StartGateway(t, "--forward", receiverUnproxy+"=127.0.0.1:3001", "--trust", "127.0.0.1",
		"--max-header", "65551")
}

// report reads to the end, then sends a line with the client that a version 1 header
// names, if there is one, and the payload.
func report(c net.Conn, header bool) {
	all, err := io.ReadAll(c)
	if err != nil {
		return
	}
	client := ""
	if header {
		line, payload, found := bytes.Cut(all, []byte("\r\n"))
		fields := strings.Fields(string(line))
		if !found || len(fields) < 2 || fields[0] != "PROXY" {
			return
		}
		client, all = "unknown", payload
		if len(fields) == 6 {
			client = net.JoinHostPort(fields[2], fields[4])
		}
	}
	fmt.Fprintf(c, "%s\n%s", client, all)
}

// deliver sends an input and returns what its receiver made of it, and the address from
// which it was sent.
func deliver(t *testing.T, at string, input []byte) (verdict, string) {
	c, err := net.DialTimeout("tcp", at, await.Patience)
	if err != nil {
		t.Errorf("connect to %s: %v", at, err)
		return verdict{}, ""
	}
	defer c.Close()
	peer := c.LocalAddr().String()
	c.SetDeadline(await.Deadline(t))
	c.Write(input) // can fail if the receiver refuses the first bytes
	c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	if os.IsTimeout(err) {
		t.Errorf("%s does not end the connection", at)
	}
	client, payload, accepted := strings.Cut(string(answer), "\n")
	if client == peer {
		client = "peer"
	}
	if accepted && payload == "" {
		t.Errorf("%.120q leaves no payload: HAProxy may give up such a connection", input)
	}
	return verdict{accepted, unmapped(client), payload}, peer
}

// unmapped writes an IPv4 address that is mapped to IPv6 as the gateway does.
func unmapped(client string) string {
	a, err := netip.ParseAddrPort(client)
	if err != nil {
		return client
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

// fillClients adds the clients that the gateway logged for the inputs that it accepted.
func fillClients(t *testing.T, g *lab.Gateway, verdicts []verdict, peers []string) {
	t.Helper()
	clients := map[string]string{}
	for i, v := range verdicts {
		for v.accepted && clients[peers[i]] == "" {
			line := g.NextConnection(t)
			clients[line.String("peer")] = line.String("client")
		}
		if verdicts[i].client = clients[peers[i]]; verdicts[i].client == peers[i] {
			verdicts[i].client = "peer"
		}
	}
}

// compareReceivers fails the test for each difference that is not explained, and for each
// explanation that no input shows.
func compareReceivers(t *testing.T, inputs []differentialInput, verdicts map[string][]verdict) {
	t.Helper()
	shown, accepted := map[*explanation]int{}, 0
	for i, in := range inputs {
		ours := verdicts[receiverUnproxy][i]
		if ours.accepted {
			accepted++
		}
		for _, at := range []string{receiverHAProxy, receiverNginx} {
			theirs := verdicts[at][i]
			if ours == theirs {
				continue
			}
			e := explain(difference{at, in.bytes, ours, theirs})
			if e == nil {
				t.Errorf("%s: %.120q\nthe gateway: %v\n%s: %v", in.name, in.bytes, ours, at, theirs)
			}
			shown[e]++
		}
	}
	t.Logf("%d inputs, of which the gateway accepts %d", len(inputs), accepted)
	for i, e := range explanations {
		n := shown[&explanations[i]]
		t.Logf("%3d × %s: %s", n, e.receiver, e.why)
		if n == 0 {
			t.Error("no input shows this difference")
		}
	}
}

// differentialInputs returns all vectors for TCP, and mutants of those that are valid.
// They are the same in each run.
func differentialInputs(t *testing.T) []differentialInput {
	t.Helper()
	var all []differentialInput
	for _, v := range vectors(t, "proxy", "local", "unknown", "error", "incomplete") {
		b := v.bytes()
		if v.Expect.Outcome != "incomplete" {
			// HAProxy gives up a connection that ends before it has anything to send.
			b = append(b, differentialPayload...)
		}
		all = append(all, differentialInput{v.Name, b})
	}
	valid := vectors(t, "proxy", "local", "unknown")
	r := rand.New(rand.NewPCG(1, 2))
	for i := range mutants {
		v := valid[r.IntN(len(valid))]
		b := append(v.bytes()[:v.Expect.Consumed:v.Expect.Consumed], differentialPayload...)
		for range 1 + r.IntN(2) {
			b = mutate(r, b, v.Expect.Consumed)
		}
		all = append(all, differentialInput{fmt.Sprintf("mutant %d of %s", i, v.Name), b})
	}
	return all
}

// mutate changes one place in the header of n bytes at the beginning of b.
func mutate(r *rand.Rand, b []byte, n int) []byte {
	at := r.IntN(min(n, len(b), 120)) // not only in long TLVs
	switch r.IntN(6) {
	case 0:
		b[at] ^= 1 << r.IntN(8)
	case 1:
		const telling = " \r\n\x00\t0129.:faTU\xff"
		b[at] = telling[r.IntN(len(telling))]
	case 2:
		b = append(b[:at], b[at+1:]...)
	case 3:
		b = append(b[:at+1], b[at:]...)
	case 4:
		if b[0] == '\r' && len(b) >= 16 { // the length of a version 2 header
			binary.BigEndian.PutUint16(b[14:], binary.BigEndian.Uint16(b[14:])+uint16(r.IntN(5))-2)
		}
	case 5:
		b[at], b[0] = b[0], b[at]
	}
	return b
}

// inParallel calls f for each number below n, in a few goroutines.
func inParallel(n int, f func(i int)) {
	var running sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		running.Go(func() {
			f(i)
			<-slots
		})
	}
	running.Wait()
}

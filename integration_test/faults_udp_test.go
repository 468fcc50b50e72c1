package integration_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// datagramInjection is a system call of the UDP path that fails some times in the gateway.
type datagramInjection struct {
	call, errno string
	times       int
	// of are the sockets for which it fails: the victims' listener, or those of their flows. Empty: any.
	of    string
	burst int      // datagrams that each victim sends at once, 0 is one
	flags []string // of the gateway
	// words are reasons for drops and outcomes of flows; one of them follows. If there are none, clients notice nothing.
	words  []string
	logged []string // messages that follow
}

const (
	theListener = "listener"
	theFlows    = "flows"
)

var (
	fromAddress = []string{"--source-address", "127.0.0.1"}

	datagramInjections = []datagramInjection{
		// A new flow: at a shortage another flow ends for it, and then there is still none.
		{call: "socket", errno: "EMFILE", times: 2, words: []string{"limit"}},
		{call: "socket", errno: "EPROTONOSUPPORT", times: 1, words: []string{"internal"}},
		{call: "setsockopt", errno: "EINVAL", times: 1, flags: fromAddress, words: []string{"internal"}},
		{call: "bind", errno: "EACCES", times: 1, flags: fromAddress, words: []string{"permission"}},
		{call: "bind", errno: "EADDRNOTAVAIL", times: 1, flags: fromAddress, words: []string{"backend_unreachable"}},
		{call: "connect", errno: "EAGAIN", times: 2, words: []string{"limit"}},
		{call: "connect", errno: "ENETUNREACH", times: 1, words: []string{"backend_unreachable"}},
		{call: "getsockname", errno: "ENOBUFS", times: 3, flags: fromAddress},
		{call: "epoll_ctl", errno: "ENOSPC", times: 2, words: []string{"limit"}},
		// Many flows at once.
		{call: "io_submit", errno: "EAGAIN", times: 3},
		{call: "io_submit", errno: "ENOSYS", times: 3},
		// From and to peers. A send is tried twice.
		{call: "recvmmsg", errno: "ENOMEM", times: 3, of: theListener},
		{call: "recvmmsg", errno: "EPERM", times: 200, of: theListener,
			logged: []string{"receive failed", "receive recovered"}},
		{call: "sendmmsg", errno: "EINTR", times: 3, of: theListener},
		{call: "sendmmsg", errno: "EAGAIN", times: 1, of: theListener, words: []string{"peer_busy"}},
		{call: "sendmmsg", errno: "EHOSTUNREACH", times: 2, of: theListener, words: []string{"peer_unreachable"}},
		// From and to backends.
		{call: "recvfrom", errno: "EAGAIN", times: 3, of: theFlows},
		{call: "recvfrom", errno: "ECONNREFUSED", times: 1, of: theFlows, words: []string{"backend_refused"}},
		{call: "recvfrom", errno: "ENOMEM", times: 1, of: theFlows, words: []string{"limit"}},
		{call: "recvmmsg", errno: "EIO", times: 1, of: theFlows, words: []string{"internal"}},
		{call: "sendto", errno: "ENOBUFS", times: 1, of: theFlows, words: []string{"backend_busy"}},
		{call: "sendto", errno: "EPERM", times: 3, of: theFlows, words: []string{"permission"}},
		{call: "sendmmsg", errno: "ENETUNREACH", times: 2, of: theFlows, burst: 3, words: []string{"backend_unreachable"}},
		// The count of datagrams that the kernel dropped, once a second.
		{call: "getsockopt", errno: "EBADF", times: 1},
	}
)

// A system call of the UDP path of the running gateway fails. Of the victims' datagrams each is answered once, or
// counted with a fitting reason, or its flow ends with one. A bystander on the same loop loses none and keeps its
// source port, and later datagrams are answered:
//
//	bystander ──datagrams all the time────────────────▶ gateway :2001 ──▶ echo :3001
//	8 victims ──datagrams, meanwhile system calls fail─▶         :2000 ──▶ echo :3000
func TestInjectedDatagramFaults(t *testing.T) {
	lab.Require(t, "strace")
	for _, row := range datagramInjections {
		t.Run(strings.Trim(row.call+" "+row.errno+" "+row.of, " "), func(t *testing.T) {
			t.Parallel()
			netns.Run(t, row.try)
		})
	}
}

func (i *datagramInjection) try(t *testing.T) {
	sourceEcho(t, "127.0.0.1:3000")
	sourceEcho(t, "127.0.0.1:3001")
	g := lab.StartGateway(t, append([]string{"--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--forward",
		"udp://127.0.0.1:2001=127.0.0.1:3001", "--trust", "127.0.0.1", "--loops", "1", "--udp-idle-timeout", "1h",
		"--drain-timeout", "100ms", "--admin", adminAt}, i.flags...)...)
	bystander := startTraffic(t, []*numbered{{socket: lab.ListenUDP(t, "127.0.0.1:0"), mode: "every",
		to: netip.MustParseAddrPort("127.0.0.1:2001"), client: otherClient, destination: dest4}})
	bystander.goesOn()
	before := openDescriptors(t, g.PID())
	v := newVictims(t, max(1, i.burst))
	v.send(t, v.sockets...)
	await.Until(t, "each victim has a flow", v.areAnswered)
	bystander.goesOn() // after the victims' flows, which are the ones to evict

	i.fail(t, g, v)
	await.Until(t, "each datagram is answered or accounted for", func() bool { return v.missing() <= accounted(t) })
	bystander.goesOn()
	lost := v.missing()
	v.begin()
	v.send(t, v.sockets...)
	await.Until(t, "later datagrams are answered", func() bool { return v.missing() == lost })
	bystander.stop()
	unproxy(t, "ban", victimNetwork, "--cut", "--admin", adminAt)
	i.expectWords(t)
	v.expectOneAnswerEach(t)
	await.Until(t, "the descriptors are back", func() bool { return openDescriptors(t, g.PID()) <= before })
}

// fail has calls fail while victims send, and waits until all have.
func (i *datagramInjection) fail(t *testing.T, g *lab.Gateway, v *victims) {
	t.Helper()
	failing := injection{call: i.call, errno: i.errno, when: fmt.Sprintf("1..%d", i.times), of: victimSockets(t, i.of)}
	injected := failing.inject(t, g)
	await.Until(t, "the calls fail", func() bool {
		if i.of == theFlows { // those that are there, and not many at once, which share calls
			v.send(t, v.sockets[0])
		} else {
			v.begin()
			v.send(t, v.sockets...)
		}
		await.Until(t, "the datagrams are answered or lost, or the calls fail", func() bool {
			// The admin endpoint makes some of the other calls, too.
			return injected.failures() >= i.times || v.areAnswered() || i.of != "" && v.missing() <= accounted(t)
		})
		return injected.failures() >= i.times
	})
	injected.end(t)
	for _, message := range i.logged {
		g.WaitLog(t, message)
	}
}

// victimSockets returns the names of the gateway's sockets for the victims, as links in /proc show them. Only
// flows have a remote address.
func victimSockets(t *testing.T, of string) (names []string) {
	t.Helper()
	want := map[string]string{theListener: `(?m)^ *\d+: 0100007F:07D0 00000000:0000 .*`,
		theFlows: `(?m)^ *\d+: 0100007F:[0-9A-F]{4} 0100007F:0BB8 .*`}[of]
	if want == "" {
		return nil
	}
	table := string(readFile(t, "/proc/thread-self/net/udp"))
	for _, line := range regexp.MustCompile(want).FindAllString(table, -1) {
		names = append(names, "socket:["+strings.Fields(line)[9]+"]")
	}
	if len(names) == 0 {
		t.Fatalf("no socket of the %s in\n%s", of, table)
	}
	return names
}

// accounted is how many datagrams have a reason, or were of a flow that was ended.
func accounted(t *testing.T) (n int) {
	t.Helper()
	for _, count := range reasonsAndOutcomes(t) {
		n += count
	}
	return n
}

// reasonsAndOutcomes returns how many datagrams were dropped by reason, and how many flows have ended by outcome.
func reasonsAndOutcomes(t *testing.T) map[string]int {
	t.Helper()
	_, metrics := adminGet(t, adminAt, "/metrics")
	words := map[string]int{}
	for _, pattern := range []string{`unproxy_udp_datagrams_dropped_total{reason="(\w+)"} (\d+)`,
		`unproxy_connections_closed_total{.*outcome="(\w+)".*} (\d+)`} {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(metrics, -1) {
			if n, _ := strconv.Atoi(m[2]); n > 0 {
				words[m[1]] += n
			}
		}
	}
	return words
}

// expectWords checks why datagrams were dropped and flows ended: all of the victims', the last ones cut by the ban.
func (i *datagramInjection) expectWords(t *testing.T) {
	t.Helper()
	_, metrics := adminGet(t, adminAt, "/metrics")
	if flows := firstMatch(t, "the metrics", metrics, `(?m)^unproxy_udp_flows_active (\d+)$`); flows != 1 {
		t.Errorf("%d flows are open, want the bystander's alone", flows)
	}
	words := reasonsAndOutcomes(t)
	delete(words, "client_denied")
	for word := range words {
		if !slices.Contains(i.words, word) {
			t.Errorf("reasons and outcomes %v, want one of %q", words, i.words)
		}
	}
	if len(words) == 0 && len(i.words) > 0 {
		t.Errorf("no reason and no outcome, want one of %q", i.words)
	}
}

// victimNetwork has the addresses of the victims' clients.
const victimNetwork = "192.0.2.0/24"

// victims are peers whose datagrams meet the calls that fail. Each names one client at a time. Each datagram has
// a number of its own.
type victims struct {
	sockets []*lab.Datagrams
	burst   int
	client  int // the first one's, a port
	sent    int

	mu      sync.Mutex
	answers map[string]int // how often, by number
}

func newVictims(t *testing.T, burst int) *victims {
	t.Helper()
	v := &victims{burst: burst, client: 1000, answers: map[string]int{}}
	for range 8 {
		socket := lab.ListenUDP(t, "127.0.0.1:0")
		v.sockets = append(v.sockets, socket)
		go v.listen(socket)
	}
	return v
}

// listen counts the answers until the socket is closed.
func (v *victims) listen(socket *lab.Datagrams) {
	buffer := make([]byte, 100)
	for {
		n, err := socket.Read(buffer)
		if err != nil {
			return
		}
		number, _, _ := strings.Cut(string(buffer[:n]), " ")
		v.mu.Lock()
		v.answers[number]++
		v.mu.Unlock()
	}
}

// begin makes the next datagrams those of new clients, and so of new flows.
func (v *victims) begin() { v.client += len(v.sockets) }

// send sends from some of the sockets, the first ones.
func (v *victims) send(t *testing.T, sockets ...*lab.Datagrams) {
	t.Helper()
	for i, socket := range sockets {
		client := netip.AddrPortFrom(client4.Addr(), uint16(v.client+i))
		for range v.burst {
			socket.Send(t, "127.0.0.1:2000", lab.V2Datagram(client, dest4, strconv.Itoa(v.sent)))
			v.sent++
		}
	}
}

// missing returns how many datagrams are not answered yet.
func (v *victims) missing() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sent - len(v.answers)
}

func (v *victims) areAnswered() bool { return v.missing() == 0 }

func (v *victims) expectOneAnswerEach(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for number, n := range v.answers {
		if i, err := strconv.Atoi(number); n != 1 || err != nil || i >= v.sent {
			t.Errorf("%d answers to datagram %q of %d", n, number, v.sent)
		}
	}
}

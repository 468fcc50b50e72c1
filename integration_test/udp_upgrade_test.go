package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// numbered is the datagrams of one client through a socket of its own, numbered, each
// of which must be answered in order by the same socket of the gateway's.
type numbered struct {
	socket              *lab.Datagrams
	to                  netip.AddrPort
	mode                string
	client, destination netip.AddrPort

	// lossyUntil, if it is set, allows that datagrams are lost until then, which lost counts: none is answered twice
	// or out of order nevertheless.
	lossyUntil time.Time

	sent, answered, lost int
	source               string // of its datagrams, as the backend sees it
}

// header precedes the next datagram, answerHeader every answer.
func (s *numbered) header() string {
	switch {
	case s.mode == "spp":
		return string(lab.SPP(s.client, s.destination))
	case s.mode == "every" || s.sent == 0:
		return string(lab.V2Datagram(s.client, s.destination, ""))
	}
	return ""
}

func (s *numbered) answerHeader() string {
	if s.mode == "spp" {
		return s.header()
	}
	return ""
}

func (s *numbered) send() error {
	_, err := s.socket.WriteToUDPAddrPort([]byte(s.header()+strconv.Itoa(s.sent)), s.to)
	s.sent++
	return err
}

// receive takes the next answer: the datagram's number, and the source of it.
func (s *numbered) receive() error {
	buffer := make([]byte, 2000)
	n, from, err := s.read(buffer)
	if err != nil {
		return fmt.Errorf("datagram %d was lost: %w", s.answered, err)
	}
	text, ok := strings.CutPrefix(string(buffer[:n]), s.answerHeader())
	number, source, _ := strings.Cut(text, " ")
	if s.source == "" {
		s.source = source
	}
	if i, _ := strconv.Atoi(number); !s.lossyUntil.IsZero() && i > s.answered && i < s.sent {
		s.lost += i - s.answered
		s.answered = i
	}
	if !ok || number != strconv.Itoa(s.answered) || source != s.source || from != s.to {
		return fmt.Errorf("answer %d is %q from %v; want %d of %s from %v", s.answered, buffer[:n], from, s.answered, s.source, s.to)
	}
	s.answered++
	return nil
}

// read reads a datagram. A stream that may lose all that is under way sends another while it waits.
func (s *numbered) read(buffer []byte) (n int, from netip.AddrPort, err error) {
	for {
		if !s.lossyUntil.IsZero() {
			s.socket.SetReadDeadline(time.Now().Add(time.Second))
		}
		n, from, err = s.socket.ReadFromUDPAddrPort(buffer)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(s.lossyUntil) {
			return n, from, err
		}
		if err := s.send(); err != nil {
			return 0, netip.AddrPort{}, err
		}
	}
}

// sourceEcho answers each datagram with itself and its source, until the test ends.
func sourceEcho(t *testing.T, address string) {
	t.Helper()
	backend := lab.ListenUDP(t, address)
	backend.SetReadBuffer(4 << 20)
	backend.SetDeadline(time.Time{})
	go func() {
		buffer := make([]byte, 2000)
		for {
			n, from, err := backend.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			backend.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %v", buffer[:n], from), from)
		}
	}()
}

// traffic keeps streams busy until it is stopped.
type traffic struct {
	*testing.T
	done    chan struct{}
	running sync.WaitGroup
	count   atomic.Int64
	streams []*numbered
}

// flying is how many datagrams of a stream are under way: few enough for the queues
// of the default size.
const flying = 4

func startTraffic(t *testing.T, streams []*numbered) *traffic {
	r := &traffic{T: t, done: make(chan struct{}), streams: streams}
	for _, s := range streams {
		r.running.Go(func() {
			if err := r.run(s); err != nil {
				t.Errorf("client %v: %v", s.client, err)
			}
		})
	}
	return r
}

func (r *traffic) run(s *numbered) error {
	for {
		for s.sent < s.answered+flying {
			if err := s.send(); err != nil {
				return err
			}
		}
		if err := s.receive(); err != nil {
			return err
		}
		r.count.Add(1)
		select {
		case <-r.done:
			return nil
		default:
		}
	}
}

// goesOn waits until more datagrams have been answered.
func (r *traffic) goesOn() {
	r.Helper()
	before := r.count.Load()
	await.Until(r, "datagrams are answered", func() bool { return r.count.Load() > before+100 || r.Failed() })
}

// stop ends the traffic; all that is under way must be answered.
func (r *traffic) stop() {
	r.Helper()
	close(r.done)
	r.running.Wait()
	for _, s := range r.streams {
		for s.answered < s.sent && !r.Failed() {
			if err := s.receive(); err != nil {
				r.Errorf("client %v: %v", s.client, err)
			}
		}
	}
	r.Logf("%d datagrams were answered", r.count.Load())
}

// Upgrades with traffic in every mode, family and loops, plain and transparent: no
// datagram and no answer is lost, and the backend sees no change. Flows are counted
// as active and have one line in the log, at their end:
//
//	10 × client ──numbered datagrams──▶ gateway :2000 ◀── SIGUSR2, n ×
//	                                       └──▶ echo :3000
func TestUDPUpgradeLosesNothing(t *testing.T) {
	t.Parallel()
	type row struct {
		mode, family, transparent string
		loops, upgrades           int
	}
	rows := []row{{"first", "IPv4", "plain", 2, 10}}
	for i, mode := range []string{"every", "first", "spp"} {
		for j, family := range []string{"IPv4", "IPv6"} {
			for k, transparent := range []string{"plain", "transparent"} {
				rows = append(rows, row{mode, family, transparent, 1 + (i+j+k)%2, 2})
			}
		}
	}
	for _, r := range rows {
		t.Run(fmt.Sprintf("%s, %s, %s, %d loops, %d upgrades", r.mode, r.family, r.transparent, r.loops, r.upgrades), func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
				host, client, destination := "127.0.0.1", client4, dest4
				if r.family == "IPv6" {
					host, client, destination = "::1", client6, dest6
				}
				front, back := net.JoinHostPort(host, "2000"), net.JoinHostPort(host, "3000")
				sourceEcho(t, back)
				flags := []string{"--forward", "udp://" + front + "=" + back, "--trust", host, "--udp-header", r.mode,
					"--loops", strconv.Itoa(r.loops), "--udp-idle-timeout", "1h", "--admin", adminAt, "--drain-timeout", "100ms"}
				if r.transparent == "transparent" {
					flags = append(flags, "--transparent")
				}
				g := startLine(t, lab.Command{}, flags...)
				var streams []*numbered
				for i := range 10 {
					streams = append(streams, &numbered{socket: lab.ListenUDP(t, net.JoinHostPort(host, "0")),
						to: netip.MustParseAddrPort(front), mode: r.mode, destination: destination,
						client: netip.AddrPortFrom(client.Addr(), client.Port()+uint16(i))})
				}
				traffic := startTraffic(t, streams)
				for range r.upgrades {
					traffic.goesOn()
					g.upgrade()
				}
				traffic.goesOn()
				traffic.stop()
				for _, s := range streams {
					if r.transparent == "transparent" && s.source != s.client.String() {
						t.Errorf("the backend saw %s, want %v", s.source, s.client)
					}
				}
				wantMetrics(t, "unproxy_udp_flows_active 10", "unproxy_udp_flows_total 0")
				for _, l := range g.Gateway.Logged(tookOver) {
					l.Expect(t, "flows", "10")
				}
				for _, l := range g.Log() {
					if l.String("message") == "connection" || l.String("event") != "" {
						t.Errorf("logged %v", l)
					}
				}
				g.signal(syscall.SIGTERM)
				for range streams {
					l := g.NextConnection(t)
					l.Expect(t, "outcome", "drained", "datagrams_in", l.String("datagrams_out"))
				}
			})
		})
	}
}

// A client that only listens gets replies after an upgrade, from the address that it
// sent to before, also where the listener is on all addresses of both families:
//
//	clients ──▶ gateway 127.0.0.2, ::1, port 2000 ◀── SIGUSR2
//	        ◀──            ◀── backend :3000
func TestUDPUpgradeKeepsReplyAddress(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := startLine(t, lab.Command{}, "--forward", "udp://:2000=127.0.0.1:3000", "--trust", "127.0.0.0/8", "--trust", "::1")
		four, six := lab.ListenUDP(t, "127.0.0.1:0"), lab.ListenUDP(t, "[::1]:0")
		four.Send(t, "127.0.0.2:2000", lab.V2Datagram(client4, dest4, "four"))
		source4 := backend.Expect(t, "four")
		six.Send(t, "[::1]:2000", lab.V2Datagram(client6, dest6, "six"))
		source6 := backend.Expect(t, "six")
		g.upgrade()
		backend.Reply(t, source4, "to four")
		if from := four.Expect(t, "to four"); from.String() != "127.0.0.2:2000" {
			t.Errorf("the reply came from %v", from)
		}
		backend.Reply(t, source6, "to six")
		if from := six.Expect(t, "to six"); from.String() != "[::1]:2000" {
			t.Errorf("the reply came from %v", from)
		}
	})
}

// TCP and UDP of one gateway are upgraded together. Connections stay with the old
// process, in which nothing is left of the flows:
//
//	8 × conn, 10 × client ──▶ gateway :2000 ◀── SIGUSR2, 3 ×
func TestUDPUpgradeBesideTCP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		sourceEcho(t, "127.0.0.1:3000")
		g := startLine(t, lab.Command{}, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000",
			"--trust", "127.0.0.1", "--udp-header", "first", "--loops", "2", "--access-log", "off", "--drain-timeout", "1h")
		kept := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello"))
		wantRead(t, kept, "hello")
		before, first := openDescriptors(t, g.pid), g.pid
		traffic := startTraffic(t, firstStreams(t, 10))
		load := startLoad(t, 8, echoes(t, "127.0.0.1:2000"))
		for range 3 {
			traffic.goesOn()
			load.goesOn()
			g.upgrade()
		}
		traffic.goesOn()
		load.stop()
		await.Until(t, "the first process has none of the flows' sockets", func() bool { return openDescriptors(t, first) <= before })
		write(t, kept, []byte("still here"))
		wantRead(t, kept, "still here")
		traffic.stop()
		kept.Close()
		lab.Gone(t, first)
		g.end()
	})
}

// firstStreams are streams of mode first from 127.0.0.1 to the gateway.
func firstStreams(t *testing.T, n int) (all []*numbered) {
	t.Helper()
	for i := range n {
		client := netip.AddrPortFrom(client4.Addr(), uint16(1000+i))
		all = append(all, &numbered{socket: lab.ListenUDP(t, "127.0.0.1:0"), to: netip.MustParseAddrPort(gatewayUDP),
			mode: "first", client: client, destination: dest4})
	}
	return all
}

// oneEach has each stream send a datagram, one after the other, and wants the answers.
func oneEach(t *testing.T, streams []*numbered) {
	t.Helper()
	for _, s := range streams {
		if err := s.send(); err != nil {
			t.Fatal(err)
		}
		if err := s.receive(); err != nil {
			t.Fatalf("client %v: %v", s.client, err)
		}
	}
}

// Thousands of flows go over, and at the limit of descriptors as many as there are:
//
//	n × client ──▶ gateway :2000 ◀── SIGUSR2
func TestUDPUpgradeOfManyFlows(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, limit string }{{"5000", ""}, {"at the limit of 1024 descriptors", "ulimit -n 1024; "}} {
		t.Run(row.name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				needDescriptors(t, 12_000)
				sourceEcho(t, "127.0.0.1:3000")
				path := linked(t)
				replace(t, path, row.limit+`exec $UNPROXY "$@"`)
				g := startLine(t, lab.Command{Name: path}, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1",
					"--udp-header", "first", "--loops", "2", "--udp-idle-timeout", "1h")
				flows := 5000
				if row.limit != "" {
					flows = int(lastLog(g.Gateway, "ready")["udp_max_flows"].(float64))
				}
				streams := firstStreams(t, flows)
				oneEach(t, streams)
				g.upgrade()
				lastLog(g.Gateway, tookOver).Expect(t, "flows", strconv.Itoa(flows))
				oneEach(t, streams)
				if l := lastLog(g.Gateway, "connection"); l != nil {
					t.Errorf("a flow ended: %v", l)
				}
				if l := lastLog(g.Gateway, notTaken); l != nil {
					t.Errorf("flows were left: %v", l)
				}
			})
		})
	}
}

const notTaken = "flows not handed over; they end"

// With a successor that does not come to serve, or fails while it is passed the flows,
// they go on where they are:
//
//	client ──▶ gateway :2000 ◀── SIGUSR2, again and again
func TestFailedUDPUpgradeKeepsFlows(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		sourceEcho(t, "127.0.0.1:3000")
		path := linked(t)
		g := startLine(t, lab.Command{Name: path}, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1",
			"--udp-header", "first", "--loops", "2", "--upgrade-timeout", "2s")
		traffic := startTraffic(t, firstStreams(t, 10))
		for i, row := range []struct{ name, script, want string }{
			{"it crashes at its start", "exit 3", "ended before it was ready: exit status 3"},
			{"it crashes as it is passed the flows", "echo ready >&3; sleep 0.1; exit 3", "the new process ended meanwhile: exit status 3"},
			{"it hangs as it is passed the flows", "echo ready >&3; exec sleep 300", "the new process did not answer in time"},
			{"it crashes after an answer", `echo ready >&3; sleep 0.1; printf "\001" >&3; sleep 0.1; exit 3`, "the new process ended meanwhile"},
		} {
			replace(t, path, row.script)
			traffic.goesOn()
			g.signal(syscall.SIGUSR2)
			g.Gateway.WaitLogs(t, upgradeFailed, i+1)
			if got := lastLog(g.Gateway, upgradeFailed).String("error"); !strings.Contains(got, row.want) {
				t.Errorf("%s: the error is %q, want %q", row.name, got, row.want)
			}
			traffic.goesOn()
		}
		restore(t, path)
		replace(t, path, `exec $UNPROXY "$@" --upgrade-timeout 1m`)
		traffic.stop()
		g.signal(syscall.SIGTERM)
	})
}

// Flows that the new process cannot serve end with a record that says why; the others
// go on. A new forward is served at once:
//
//	clients ──▶ gateway :2000, :2001, :2002, :2003 ◀── SIGUSR2
//	            the next one: :2000, :2002 of another mode, :2003 transparent, :2004
func TestUDPUpgradeToOtherForwards(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		sourceEcho(t, "127.0.0.1:3000")
		path := linked(t)
		g := startLine(t, lab.Command{Name: path}, "--sandbox", "off",
			"--trust", "127.0.0.1", "--udp-header", "first", "--loops", "2",
			"--forward", "udp://127.0.0.1:2000-2003=127.0.0.1:3000")
		var streams []*numbered
		for i, s := range firstStreams(t, 4) {
			s.to = netip.AddrPortFrom(s.to.Addr(), uint16(2000+i))
			streams = append(streams, s)
		}
		oneEach(t, streams)
		replace(t, path, "exec $UNPROXY --trust 127.0.0.1 --log-format json --udp-header first --loops 3 --forward udp://127.0.0.1:2000=127.0.0.1:3000 "+
			"--forward 'udp://127.0.0.1:2002=127.0.0.1:3000?udp-header=every' --forward 'udp://127.0.0.1:2003=127.0.0.1:3000?transparent=true' "+
			"--forward udp://127.0.0.1:2004=127.0.0.1:3000")
		g.upgrade()
		oneEach(t, streams[:1])
		reasons := map[string]string{}
		for range 3 {
			l := g.NextConnection(t)
			l.Expect(t, "outcome", "drained", "by", "gateway", "datagrams_in", "1", "datagrams_out", "1")
			reasons[l.String("forward")] = l.String("reason")
		}
		for port, want := range map[string]string{"2001": "no such listener", "2002": "another kind of header", "2003": "another source"} {
			if got := reasons["udp://127.0.0.1:"+port]; !strings.Contains(got, want) {
				t.Errorf("a flow of port %s ended: %q, want %q (%v)", port, got, want, reasons)
			}
		}
		if got := g.Gateway.Logged(notTaken); len(got) != 3 {
			t.Errorf("logged %v", got)
		}
		for i, port := range []uint16{2002, 2003, 2004} {
			s := firstStreams(t, 1)[0]
			s.client, s.to = netip.AddrPortFrom(other4.Addr(), uint16(i+1)), netip.AddrPortFrom(s.to.Addr(), port)
			oneEach(t, []*numbered{s})
		}
		await.Until(t, "port 2001 is free", func() bool {
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(streams[1].to))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		g.signal(syscall.SIGTERM)
	})
}

// A list that was changed before is in force after an upgrade, also for the flows that
// go on:
//
//	clients of two peers ──▶ gateway :2000, --trust-file ◀── SIGUSR2
func TestUDPUpgradeReloads(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		sourceEcho(t, "127.0.0.1:3000")
		list := lab.WriteFile(t, "trust", "127.0.0.1\n127.0.0.2\n")
		g := startLine(t, lab.Command{}, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000", "--trust-file", list, "--udp-header", "first")
		streams := firstStreams(t, 2)
		streams[1].socket = lab.ListenUDP(t, "127.0.0.2:0")
		oneEach(t, streams)
		rewrite(t, list, "127.0.0.1\n")
		g.upgrade()
		oneEach(t, streams[:1])
		streams[1].send()
		if l := g.WaitLog(t, "datagrams dropped"); !strings.Contains(l.String("detail"), "untrusted 1") {
			t.Errorf("logged %v", l)
		}
		streams[1].socket.Empty(t)
		rewrite(t, list, "127.0.0.1\n127.0.0.2\n")
		g.signal(syscall.SIGHUP)
		g.Gateway.WaitLogs(t, reloadedMessage, 1)
		streams[1].answered++ // the one that was dropped
		oneEach(t, streams)
	})
}

// A client's address and port still belong to one flow: through another socket of the
// load balancer its flow ends and the new one has them, as without an upgrade. A second
// destination of the same client gets another port.
//
//	lb :a ──A──▶ gateway ◀── SIGUSR2 ──A's own address──▶ backend
//	lb :b ──A──▶
func TestUDPUpgradeKeepsClaims(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		returnPath(t, "udp://127.0.0.1:3000", "udp://[::1]:3000")
		backend := lab.ListenUDP(t, "127.0.0.1:3000")
		g := startLine(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, "--forward", "udp://127.0.0.1:2000=127.0.0.1:3000",
			"--trust", "127.0.0.1", "--transparent", "--loops", "2")
		one, two := lab.ListenUDP(t, "127.0.0.1:0"), lab.ListenUDP(t, "127.0.0.1:0")
		one.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "one"))
		backend.Expect(t, "one")
		g.upgrade()
		two.Send(t, gatewayUDP, lab.V2Datagram(client4, netip.AddrPortFrom(dest4.Addr(), 444), "elsewhere"))
		if from := backend.Expect(t, "elsewhere"); from.Addr() != client4.Addr() || from == client4 {
			t.Errorf("the backend saw %v, want another port of %v", from, client4)
		}
		two.Send(t, gatewayUDP, lab.V2Datagram(client4, dest4, "two"))
		if from := backend.Expect(t, "two"); from != client4 {
			t.Errorf("the backend saw %v, want %v", from, client4)
		}
		backend.Reply(t, client4, "re two")
		two.Expect(t, "re two")
		g.NextConnection(t).Expect(t, "outcome", "ok", "by", "peer", "peer", one.Addr.String(), "datagrams_in", "1")
	})
}

package integration_test

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/race"
)

// soakLevel is what a gateway's process holds.
type soakLevel struct {
	descriptors int // without those of pipes
	pipes       int // as the gateway counts them
	goroutines  int
	memory      int // resident, in bytes
}

// level returns the level of the process that serves.
func (s *soak) level() soakLevel {
	s.Helper()
	_, metrics := adminGet(s.T, s.admin, "/metrics")
	l := soakLevel{pipes: statusOf(s.T, s.admin).Holdings.Pipes, memory: residentMemory(s.T, s.pid)}
	l.goroutines = firstMatch(s.T, "the metrics", metrics, `(?m)^go_goroutines (\d+)$`)
	l.descriptors = openDescriptors(s.T, s.pid) - 2*l.pipes
	return l
}

// mostIdlePipes is how many idle pipes a loop keeps for the next bulk stream (engine/pipe.go).
const mostIdlePipes = 32

// mostMemory is how much more memory than before a process may keep. The Go runtime lets its heap grow
// to twice what is in use before it collects (GOGC), and the tables of connections and timers shrink
// only after a burst (daemon/pressure.go).
const mostMemory = 32 << 20

// compareLevels waits until the process that serves holds no more than before the traffic.
func (s *soak) compareLevels(before soakLevel) {
	s.Helper()
	s.settle()
	loops := len(statusOf(s.T, s.admin).Loops)
	var now soakLevel
	back := await.For(s.T, func() bool {
		now = s.level()
		return now.descriptors <= before.descriptors && now.goroutines <= before.goroutines &&
			now.pipes <= mostIdlePipes*loops && (race.Enabled || now.memory <= before.memory+mostMemory)
	})
	s.Logf("before: %+v", before)
	s.Logf("after:  %+v", now)
	if !back {
		s.Error("the level is not that of before")
	}
	if race.Enabled {
		s.T.Log("memory is not compared: the race detector keeps its own")
	}
}

// compareLog compares the access log with what the clients and the backend counted. Each exchange that
// a client finished has one line.
func (s *soak) compareLog() {
	s.Helper()
	lines := map[netip.AddrPort]lab.Line{}
	outcomes := map[string]int{}
	for _, l := range s.Gateway.Logged("connection") {
		outcomes[l.String("outcome")]++
		client := l.AddrPort("client")
		if _, twice := lines[client]; twice && l.String("outcome") == "ok" {
			s.Errorf("client %v has two lines, the second is %v", client, l)
		}
		lines[client] = l
	}
	var in, out int
	backends := s.endBackend()
	for id, c := range s.clients.finished {
		b, x := backends[id], duplex{id: id}
		l := lines[x.client()]
		want := []string{"outcome", "ok", "bytes_in", strconv.Itoa(c.Sent), "bytes_out", strconv.Itoa(c.Received)}
		l.Expect(s.T, want...)
		if b.Received != c.Sent || b.Sent != c.Received {
			s.Errorf("client %v: it counted %+v, the backend %+v", x.client(), c, b)
		}
		in, out = in+c.Sent, out+c.Received
	}
	if in == 0 || out == 0 {
		s.Error("nothing was compared")
	}
	for _, client := range s.gone {
		if outcome := lines[client].String("outcome"); outcome == "" || outcome == "ok" {
			s.Errorf("vanished client %v: outcome %q", client, outcome)
		}
	}
	s.Logf("%d exchanges ended cleanly, with %d bytes in and %d bytes out, equal at the clients, at the backend and "+
		"in the access log", len(s.clients.finished), in, out)
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		s.Logf("%8d lines with outcome %s", outcomes[outcome], outcome)
	}
}

// releaseIdle ends the idle connections, some hundreds at a time: at its end a process waits for a second until its
// last lines are read.
func (s *soak) releaseIdle() {
	s.Helper()
	for left := s.idle; left > 0; {
		n := min(left, 500)
		left -= n
		for range n {
			s.release <- struct{}{}
		}
		await.Until(s.T, "idle connections end", func() bool { return s.released.Load() >= int64(s.idle-left) })
	}
}

// compareDatagrams compares the datagrams that were lost with what the kernel dropped. The loopback interface has a
// queue for each processor of the machine, which overflows if others keep the processors busy.
func (s *soak) compareDatagrams(datagrams *traffic) {
	s.Helper()
	lost, dropped := 0, droppedPackets(s.T)-s.drops
	for _, stream := range datagrams.streams {
		lost += stream.lost
	}
	s.Logf("%d datagrams were lost, the kernel dropped %d packets of loopback", lost, dropped)
	if lost > dropped {
		s.Error("the gateway lost datagrams")
	}
}

// droppedPackets is how many packets the kernel has dropped because a processor's queue was full
// (net.core.netdev_max_backlog).
func droppedPackets(t *testing.T) (n int) {
	t.Helper()
	for line := range strings.Lines(string(readFile(t, "/proc/thread-self/net/softnet_stat"))) {
		dropped, err := strconv.ParseInt(strings.Fields(line)[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		n += int(dropped)
	}
	return n
}

// report prints what was done.
func (s *soak) report() {
	s.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.loads)) {
		s.Logf("%8d × %s", s.loads[name].served.Load(), name)
	}
	s.Logf("%8d × idle connections", s.idle)
	s.Logf("%8d × vanished clients", len(s.gone))
	s.Logf("%8d × upgrades, %d reloads, %d reloads refused", s.upgrades, s.reloads, s.refused)
}

// stopLoads ends all traffic but the vanished clients, which are the gateway's to find.
func (s *soak) stopLoads(datagrams *traffic) {
	s.Helper()
	for _, l := range s.loads {
		l.stop()
	}
	datagrams.stop()
	s.compareDatagrams(datagrams)
	s.releaseIdle()
	s.held.Wait()
}

package integration_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// soakVariable is the environment variable with the duration of the soak, such as 10m. scripts/soak
// sets it.
const soakVariable = "UNPROXY_SOAK"

// soakSize is how much a soak does.
type soakSize struct {
	duration time.Duration
	idle     int   // connections
	stride   int64 // exchanges between two steps
	// keepalive finds clients that vanish. Probes of thousands of idle connections every second would overflow the
	// queue of the loopback interface, and the kernel would give up connections that are there.
	keepalive string
}

// sizeOfSoak returns the short form, or the one that the environment asks for: with up to 15 000 idle
// connections, as the limit on descriptors allows. The test and its backend need one for each, and each process of
// the gateway two for each of a quarter: the rest are those of processes before and after it.
func sizeOfSoak(t *testing.T) soakSize {
	t.Helper()
	size := soakSize{5 * time.Second, 1000, 50, "1s"}
	text := os.Getenv(soakVariable)
	if text == "" {
		needDescriptors(t, 5000)
		return size
	}
	os.Unsetenv(soakVariable) // the gateway would report that it does not know it
	var err error
	if size.duration, err = time.ParseDuration(text); err != nil {
		t.Fatalf("%s=%q: %v", soakVariable, text, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	size.idle, size.stride, size.keepalive = min(15_000, max(int(limit.Max)-4000, 0)), 2000, "10s"
	return size
}

// soak is mixed traffic through a gateway, and what both ends count.
type soak struct {
	*line
	size  soakSize
	admin string
	trust string // the path of the file
	end   time.Time

	ids              atomic.Uint64
	clients          ledger
	backend          *lab.Process
	book             string // the path of its ledger
	loads            map[string]*load
	held             sync.WaitGroup // idle connections
	release          chan struct{}  // lets one of them end
	released         atomic.Int64   // those that have ended
	idle, batches    int
	gone             []netip.AddrPort // vanished clients
	reloads, refused int              // those that succeed, and those that fail
	drops            int              // droppedPackets when the datagrams began
}

const (
	soakTrust = "127.0.0.0/15\n"
	// vanishing is how many clients vanish at a time.
	vanishing = 20
)

// Mixed traffic, reloads and upgrades leave nothing behind, no byte is lost or changed, and the access
// log has the numbers that the clients and the backend have. scripts/soak runs it for longer:
//
//	idle, short, bulk, slow, reset, half-open, vanished, refused ──▶ gateway :2000 ──▶ backend :3000
//	                                                   datagrams ──▶         :2001 ──▶ echo    :3001
//	                                                 SIGHUP, SIGUSR2 ──▶
func TestSoak(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		s := startSoak(t)
		datagrams := s.startDatagrams()
		s.warmUp()
		datagrams.goesOn()
		before := s.level()
		s.startLoads()
		for time.Now().Before(s.end) {
			for _, step := range []func(){s.openIdle, s.vanish, s.reload, s.reloadBroken, s.upgrade} {
				step()
				s.goesOn()
				datagrams.goesOn()
			}
		}
		s.stopLoads(datagrams)
		s.compareLevels(before)
		s.signal(syscall.SIGTERM)
		s.WaitLog(t, "draining")
		s.line.end() // a second signal: the flows would be kept
		s.compareLog()
		s.report()
	})
}

func startSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{size: sizeOfSoak(t), admin: "unix:" + filepath.Join(t.TempDir(), "admin"),
		trust: lab.WriteFile(t, "trust", soakTrust), loads: map[string]*load{}}
	s.release = make(chan struct{}, s.size.idle)
	s.end = time.Now().Add(s.size.duration)
	netns.Sysctl(t, "net.ipv4.ip_local_port_range", "10000 65535")
	netns.IP(t, "link set lo mtu 1500") // as on a network: slow readers fill small buffers
	netns.Sysctl(t, "net.ipv4.tcp_rmem", "4096 65536 131072")
	netns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 65536 131072")
	// The kernel gives up vanished clients sooner than by default, those with bytes under way as well.
	netns.Sysctl(t, "net.ipv4.tcp_retries2", "4")
	netns.Sysctl(t, "net.ipv4.tcp_synack_retries", "1")
	lab.Output(t, "nft", `add table inet soak
add set inet soak gone { type ipv4_addr; flags interval; }
add chain inet soak input { type filter hook input priority 0; }
add rule inet soak input ip daddr 127.8.0.0/16 drop
add rule inet soak input ip saddr @gone drop
add rule inet soak input ip daddr @gone drop`)
	sourceEcho(t, "127.0.0.1:3001")
	s.line = startLine(t, lab.Command{}, "--forward", soakFront+"="+soakBack, "--trust-file", s.trust,
		"--forward", "udp://127.0.0.1:2001=127.0.0.1:3001", "--udp-header", "first", "--udp-idle-timeout", "1h", "--loops", "2",
		"--admin", s.admin, "--log-level", "info", "--keepalive", s.size.keepalive, "--header-timeout", "10s",
		"--drain-timeout", "1h")
	s.startBackend()
	return s
}

// warmUp upgrades and serves connections of each kind, so that what a process allocates once is
// allocated.
func (s *soak) warmUp() {
	s.Helper()
	s.upgrade()
	for _, k := range soakKinds() {
		for range 5 {
			if err := k.once(s); err != nil {
				s.Fatalf("%s: %v", k.name, err)
			}
		}
	}
	s.settle()
}

// settle waits until no connection is open, in this process or an older one.
func (s *soak) settle() {
	s.Helper()
	for _, pid := range s.pids() {
		if pid != s.pid {
			lab.Gone(s.T, pid)
		}
	}
	await.Until(s.T, "the connections have ended", func() bool {
		return statusOf(s.T, s.admin).Forwards[0].Active == 0
	})
}

func (s *soak) startLoads() {
	s.Helper()
	for _, k := range soakKinds() {
		s.loads[k.name] = startLoad(s.T, k.workers, func() error {
			time.Sleep(5 * time.Millisecond) // it need not be a benchmark
			return k.once(s)
		})
	}
}

// startDatagrams starts traffic over UDP; its flows last to the end.
func (s *soak) startDatagrams() *traffic {
	s.Helper()
	var streams []*numbered
	for i := range 4 {
		streams = append(streams, &numbered{socket: lab.ListenUDP(s.T, "127.0.0.1:0"), mode: "first",
			to: netip.MustParseAddrPort("127.0.0.1:2001"), destination: dest4,
			client: netip.AddrPortFrom(client4.Addr(), client4.Port()+uint16(i)), lossyUntil: s.end.Add(await.Patience)})
		streams[i].socket.SetDeadline(s.end.Add(await.Patience))
	}
	s.drops = droppedPackets(s.T)
	return startTraffic(s.T, streams)
}

// goesOn waits until each kind of traffic has been served, and so many exchanges.
func (s *soak) goesOn() {
	s.Helper()
	const most = "short exchanges"
	before := map[string]int64{}
	for name, l := range s.loads {
		before[name] = l.served.Load()
	}
	continues := await.For(s.T, func() bool {
		for name, l := range s.loads {
			if l.served.Load() == before[name] || len(l.failures()) > 0 {
				return len(l.failures()) > 0
			}
		}
		return s.loads[most].served.Load() >= before[most]+s.size.stride
	})
	if continues {
		return
	}
	for name, l := range s.loads {
		s.Logf("%8d × %s since the last step", l.served.Load()-before[name], name)
	}
	s.Fatalf("not every kind of traffic went on within %v", await.Patience)
}

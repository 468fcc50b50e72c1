package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// routed is a backend behind a router, with a smaller MTU on the second link:
//
//	the gateway's host ══ router 10.9.0.254 ──1400── backend 10.5.0.2, fd05::2
func routed(t *testing.T) *lab.Host {
	t.Helper()
	router := lab.NewHost(t, "back0", "10.9.0.254/24", "fd09::fe/64")
	backend := lab.NewHost(t, "spare0")
	router.Sysctl(t, "net.ipv4.ip_forward", "1")
	router.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	router.Tunnel(t, "down0", backend, "up0")
	netns.IP(t, "address add 10.9.0.1/24 dev back0")
	netns.IP(t, "-6 address add fd09::1/64 dev back0 nodad")
	netns.IP(t, "route add 10.5.0.0/16 via 10.9.0.254")
	netns.IP(t, "-6 route add fd05::/64 via fd09::fe")
	router.IP(t, "link set down0 mtu 1400")
	backend.IP(t, "link set up0 mtu 1400")
	router.IP(t, "address add 10.5.0.1/24 dev down0")
	router.IP(t, "-6 address add fd05::1/64 dev down0 nodad")
	router.IP(t, "route add default via 10.9.0.1")
	router.IP(t, "-6 route add default via fd09::1")
	backend.IP(t, "address add 10.5.0.2/24 dev up0")
	backend.IP(t, "-6 address add fd05::2/64 dev up0 nodad")
	backend.IP(t, "route add default via 10.5.0.1")
	backend.IP(t, "-6 route add default via fd05::1")
	return backend
}

// behindRouter is the place of a backend behind a router.
var behindRouter = place{name: "behind another router", backends: [2]string{"10.5.0.2:25", "[fd05::2]:25"}, host: routed}

// everyPlace calls do for each place and recipe, in a namespace of its own in which
// lo has the MTU of a link.
func everyPlace(t *testing.T, do func(t *testing.T, p place, host *lab.Host, recipe returnpath.Recipe)) {
	for _, p := range append(places[:len(places):len(places)], behindRouter) {
		for _, recipe := range []returnpath.Recipe{returnpath.Rules, returnpath.Marks} {
			t.Run(p.name+", "+recipe.String(), func(t *testing.T) {
				t.Parallel()
				netns.Run(t, func(t *testing.T) {
					lab.Require(t, "nft")
					outsider(t)
					netns.IP(t, "link set lo mtu 1500")
					do(t, p, p.machine(t), recipe)
				})
			})
		}
	}
}

// applyPlan applies the plan for UDP backends.
func applyPlan(t *testing.T, recipe returnpath.Recipe, addresses ...string) returnpath.Plan {
	t.Helper()
	var backends []returnpath.Backend
	for _, a := range addresses {
		backends = append(backends, returnpath.Server(netip.MustParseAddrPort(a), true))
	}
	located, err := routing.Locate(backends)
	if err != nil {
		t.Fatal(err)
	}
	plan := returnpath.New(located, nil, returnpath.Options{Recipe: recipe})
	if err := routing.Apply(t.Context(), plan, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return plan
}

// Replies that exceed the MTU arrive, from every place and with every recipe.
// Without the plan's table they do not, where the packet filter has to reassemble
// them.
func TestUDPRepliesLargerThanTheMTUArrive(t *testing.T) {
	everyPlace(t, func(t *testing.T, p place, host *lab.Host, recipe returnpath.Recipe) {
		for _, address := range p.backends {
			go sendOnRequest(host.ListenUDP(t, netip.MustParseAddrPort(address)))
		}
		for _, address := range p.backends {
			await.Until(t, "the backend answers this host", func() bool { return request(t, netip.AddrPort{}, address, 1) == 1 })
		}
		plan := applyPlan(t, recipe, p.backends[:]...)
		clients := [2]netip.AddrPort{client4, client6}
		for i, client := range clients {
			for _, size := range []int{1, 1472, 1473, 4000, 60000} {
				await.Until(t, fmt.Sprintf("%d bytes of %s reach %v", size, p.backends[i], client),
					func() bool { return request(t, client, p.backends[i], size) == size })
			}
		}
		if recipe != returnpath.Rules || plan.Filter == nil {
			return
		}
		lab.Output(t, "nft", "delete", "table", "inet", plan.Filter.Name())
		for i, client := range clients {
			await.Until(t, "small replies arrive by rules alone", func() bool { return request(t, client, p.backends[i], 1) == 1 })
			if got := request(t, client, p.backends[i], 4000); got != 0 {
				t.Errorf("without the table %d bytes of %s arrive: this test shows nothing", got, p.backends[i])
			}
		}
	})
}

// sendOnRequest replies to a number with as many bytes.
func sendOnRequest(c *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		size, _ := strconv.Atoi(strings.TrimRight(string(b[:n]), "."))
		c.WriteToUDPAddrPort(make([]byte, size), from) // lost without a return path, which is the point
	}
}

// request asks a backend for a reply and returns its size, 0 if none comes soon.
func request(t *testing.T, client netip.AddrPort, backend string, size int) int {
	t.Helper()
	n, err := datagramFrom(t, client, backend, []byte(strconv.Itoa(size)))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatal(err)
	}
	return n
}

// datagramFrom sends a datagram to backend, from client if that is valid, and waits a moment
// for the reply.
func datagramFrom(t *testing.T, client netip.AddrPort, backend string, datagram []byte) (int, error) {
	t.Helper()
	c := datagramSocket(t, client, backend)
	defer c.Close()
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write(datagram); err != nil {
		return 0, err
	}
	return c.Read(make([]byte, 1<<16))
}

// datagramSocket returns a UDP socket that is connected to backend, from client if that
// is valid.
func datagramSocket(t *testing.T, client netip.AddrPort, backend string) net.Conn {
	t.Helper()
	to := netip.MustParseAddrPort(backend)
	domain, peer := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		domain, peer = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	if client.IsValid() {
		if errno := transparent.Bind(transparent.System{}, fd, client); errno != 0 {
			t.Fatalf("bind to %v: %v", client, errno)
		}
	}
	if err := unix.Connect(fd, peer); err != nil {
		t.Fatal(os.NewSyscallError("connect", err))
	}
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// closedBeside are the addresses of a place with a port on which nothing listens.
func closedBeside(p place) (all [2]string) {
	for i, address := range p.backends {
		at := netip.MustParseAddrPort(address)
		all[i] = netip.AddrPortFrom(at.Addr(), at.Port()+1).String()
	}
	return all
}

// A gateway whose first backend is closed uses the second one: it learns of it from
// an ICMP error to the client's address.
func TestTransparentUDPFailover(t *testing.T) {
	everyPlace(t, func(t *testing.T, p place, host *lab.Host, recipe returnpath.Recipe) {
		closed := closedBeside(p)
		for i, address := range p.backends {
			go sendOnRequest(host.ListenUDP(t, netip.MustParseAddrPort(address)))
			await.Until(t, "the backend's host refuses this host", func() bool { return isRefused(t, netip.AddrPort{}, closed[i]) })
		}
		clients := [2]netip.AddrPort{client4, client6}
		for i, client := range clients {
			if isRefused(t, client, closed[i]) {
				t.Errorf("%v is refused without a return path: this test shows nothing", client)
			}
		}
		flags := []string{"--trust", "127.0.0.1", "--transparent", "--recipe", recipe.String(), "--drain-timeout", "100ms",
			"--forward", fmt.Sprintf("udp://127.0.0.1:2000=%s,%s", closed[0], p.backends[0]),
			"--forward", fmt.Sprintf("udp://127.0.0.1:2001=%s,%s", closed[1], p.backends[1])}
		routes(t, "apply", flags)
		lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()}, flags...)
		peer := lab.ListenUDP(t, "127.0.0.1:0")
		for i, client := range clients {
			destination := [2]netip.AddrPort{dest4, dest6}[i]
			await.Until(t, "the second backend replies to "+client.String(), func() bool {
				peer.Send(t, fmt.Sprintf("127.0.0.1:%d", 2000+i), lab.V2Datagram(client, destination, "9"))
				peer.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				n, _ := peer.Read(make([]byte, 100))
				return n == 9
			})
		}
		if text, code := lab.RunGateway(t, append([]string{"doctor"}, flags...)...); strings.Contains(text, "ICMP errors about it do not reach") {
			t.Errorf("the doctor ends with %d and says\n%s", code, text)
		}
	})
}

// isRefused reports whether a client soon learns that a port is closed.
func isRefused(t *testing.T, client netip.AddrPort, closed string) bool {
	t.Helper()
	_, err := datagramFrom(t, client, closed, []byte("1"))
	return errors.Is(err, unix.ECONNREFUSED)
}

// The doctor says that failover cannot work with rules of an earlier version or of
// other instructions, which leave out ICMP.
func TestDoctorReportsRulesWithoutICMP(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		flags := []string{"--forward", "udp://127.0.0.1:2000=127.0.0.1:3001,127.0.0.1:3000", "--trust", "127.0.0.1", "--transparent"}
		lab.ListenUDP(t, "127.0.0.1:3000")
		netns.IP(t, "route add local default dev lo table 7700")
		netns.IP(t, "rule add from 127.0.0.1 iif lo ipproto udp sport 3000-3001 lookup 7700 pref 7700")
		sick := brief(findings(t, lab.Command{}, 3, flags...))
		if !strings.Contains(sick, "failover udp://127.0.0.1:3001 fail") || !strings.Contains(sick, "failover udp://127.0.0.1:3000 warn") {
			t.Errorf("the doctor says\n%s", sick)
		}
		lab.Shell(t, prescribed(diagnosed(t, 3, flags...)))
		if fixed := brief(findings(t, lab.Command{}, 0, flags...)); !strings.Contains(fixed, "failover udp://127.0.0.1:3001 ok") {
			t.Errorf("fixed, the doctor prints\n%s", fixed)
		}
	})
}

// Hosts that do not use the gateway go on being answered, by pings and by errors
// about closed ports, and this host reaches the backends: the rules for ICMP match
// the errors for the gateway.
func TestRoutesLeaveOtherICMP(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nft")
				other := outsider(t)
				p.machine(t)
				answered := func() string {
					var all strings.Builder
					for _, address := range p.backends {
						at := netip.MustParseAddrPort(address).Addr()
						if pings(t, at) {
							fmt.Fprintf(&all, "this host pings %s\n", at)
						}
						other.Do(t, func() {
							if pings(t, at) {
								fmt.Fprintf(&all, "the outsider pings %s\n", at)
							}
						})
					}
					return all.String()
				}
				await.Until(t, "neighbours know each other", func() bool { return strings.Count(answered(), "this host") == 2 })
				before := answered()
				applyPlan(t, returnpath.Auto, p.backends[:]...)
				if after := answered(); after != before {
					t.Errorf("with the routes:\n%swithout:\n%s", after, before)
				}
			})
		})
	}
}

// pings reports whether an address soon answers an echo request (RFC 792, RFC 4443)
// of the host that the thread is on.
func pings(t *testing.T, to netip.Addr) bool {
	t.Helper()
	network, message := "ip4:icmp", []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1} // type, code, checksum, identifier, number
	answer := byte(0)
	if to.Is6() {
		network, message, answer = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0, 1, 0, 1}, 129 // the kernel adds the checksum
	}
	c, err := net.Dial(network, to.String())
	if errors.Is(err, unix.ENETUNREACH) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(message); err != nil {
		return false
	}
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	for b := make([]byte, 100); ; {
		n, _, err := c.(*net.IPConn).ReadFrom(b) // without the IPv4 header
		if err != nil {
			return false
		}
		if n > 0 && b[0] == answer { // to itself a host also receives its request
			return true
		}
	}
}

// A large upload reaches a backend behind a link with a smaller MTU: the router's
// error, which says how large a packet may be, reaches the gateway.
func TestTransparentPathMTU(t *testing.T) {
	for _, recipe := range []string{"rules", "marks"} {
		t.Run(recipe, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nft")
				outsider(t)
				host := routed(t)
				flags := []string{"--trust", "127.0.0.1", "--transparent", "--recipe", recipe}
				received := make(chan int64, 2)
				for i, address := range behindRouter.backends {
					flags = append(flags, "--forward", fmt.Sprintf("127.0.0.1:%d=%s", 2000+i, address))
					var l net.Listener
					host.Do(t, func() {
						var err error
						if l, err = net.Listen("tcp", address); err != nil {
							t.Fatal(err)
						}
					})
					lab.ServeOn(t, l, func(c net.Conn) {
						n, _ := io.Copy(io.Discard, c)
						received <- n
					})
				}
				// The backend's own limit would spare the router the error.
				netns.IP(t, "route change 10.5.0.0/16 via 10.9.0.254 advmss 1460")
				host.IP(t, "link set up0 mtu 1500")
				routes(t, "apply", flags)
				g := lab.StartGateway(t, withoutSelfTest(flags)...)
				const size = 200000
				for i, client := range []netip.AddrPort{client4, client6} {
					c := lab.Send(t, g.Address(t, i), headerOf(client), make([]byte, size))
					c.CloseWrite()
					if got := <-received; got != size {
						t.Errorf("%v: the backend received %d bytes, want %d", client, got, size)
					}
					c.Close()
				}
			})
		})
	}
}

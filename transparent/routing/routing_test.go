package routing_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/netns"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// lo:    198.51.100.5
// br0:   10.8.0.1/24, fd08::1/64; behind it 10.8.0.7, fd08::7; the host forwards IPv4
// route: 10.5.0.0/16 via 10.8.0.254
func host(t *testing.T) {
	t.Helper()
	for _, command := range []string{
		"address add 198.51.100.5/32 dev lo",
		"link add br0 type bridge",
		"link set br0 addrgenmode none", // no link-local address that appears later
		"address add 10.8.0.1/24 dev br0",
		"-6 address add fd08::1/64 dev br0 nodad",
		"link set br0 up",
		"route add 10.5.0.0/16 via 10.8.0.254",
	} {
		netns.IP(t, command)
	}
	netns.Sysctl(t, "net.ipv4.conf.br0.forwarding", "1")
	// The kernel adds the route of an IPv6 address a little later (addrconf_dad_work).
	await.Until(t, "fd08::1 is local", func() bool {
		return strings.HasPrefix(netns.IP(t, "-6 route get fd08::1"), "local ")
	})
}

func prefix(text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.MustParsePrefix(text)
}

func TestLocatePrefix(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		local := returnpath.Reach{Place: returnpath.Local, Device: "lo"}
		link := returnpath.Reach{Place: returnpath.Link, Device: "br0", Forwards: true}
		loopback := returnpath.Reach{Place: returnpath.Loopback, Device: "lo"}
		for _, tt := range []struct {
			address string
			want    []returnpath.Reach
		}{
			{"127.0.0.1", []returnpath.Reach{loopback}},
			{"127.0.0.9", []returnpath.Reach{loopback}},
			{"::1", []returnpath.Reach{loopback}},
			{"198.51.100.5", []returnpath.Reach{loopback}},
			{"10.8.0.1", []returnpath.Reach{local}},
			{"fd08::1", []returnpath.Reach{local}},
			{"10.8.0.7", []returnpath.Reach{link}},
			{"fd08::7", []returnpath.Reach{{Place: returnpath.Link, Device: "br0"}}},
			{"10.5.0.7", []returnpath.Reach{{Place: returnpath.Routed, Device: "br0",
				Router: netip.MustParseAddr("10.8.0.254"), Forwards: true}}},
			{"192.0.2.7", []returnpath.Reach{{}}},
			{"2001:db8::7", []returnpath.Reach{{}}},
			{"10.8.0.0/24", []returnpath.Reach{local, link}},
			{"10.8.0.128/25", []returnpath.Reach{link}},
			{"192.0.2.0/24", []returnpath.Reach{{}}},
		} {
			got, err := routing.LocatePrefix(prefix(tt.address))
			if err != nil {
				t.Errorf("LocatePrefix(%s): %v", tt.address, err)
				continue
			}
			if len(got) != len(tt.want) {
				t.Errorf("LocatePrefix(%s) = %+v, want %+v", tt.address, got, tt.want)
				continue
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("LocatePrefix(%s) = %+v, want %+v", tt.address, got, tt.want)
				}
			}
		}
	})
}

// planFor returns the plan for servers, located on this host.
func planFor(t *testing.T, o returnpath.Options, servers ...string) returnpath.Plan {
	t.Helper()
	var all []returnpath.Backend
	for _, s := range servers {
		s, udp := strings.CutPrefix(s, "udp ")
		all = append(all, returnpath.Server(netip.MustParseAddrPort(s), udp))
	}
	located, err := routing.Locate(all)
	if err != nil {
		t.Fatal(err)
	}
	return returnpath.New(located, nil, o)
}

// state returns the rules, routes and packet filter as ip and nft list them.
func state(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"rule show", "-6 rule show", "route show table all type local", "-6 route show table all type local",
	} {
		all.WriteString(netns.IP(t, command))
	}
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v: %s", err, out)
	}
	return all.String() + string(out)
}

func requireNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
}

// everywhere returns the plan for a backend in each place.
func everywhere(t *testing.T) returnpath.Plan {
	return planFor(t, returnpath.Options{},
		"127.0.0.1:22", "[::1]:22", "198.51.100.5:25", "10.8.0.1:25", "[fd08::1]:25", "udp 10.8.0.1:53", "10.8.0.7:80",
		"[fd08::7]:80")
}

func apply(t *testing.T, p returnpath.Plan) (steps int) {
	t.Helper()
	if err := routing.Apply(t.Context(), p, func(string) { steps++ }); err != nil {
		t.Fatal(err)
	}
	return steps
}

func remove(t *testing.T, p returnpath.Plan) (steps int) {
	t.Helper()
	if err := routing.Remove(t.Context(), p, func(string) { steps++ }); err != nil {
		t.Fatal(err)
	}
	return steps
}

// TestApply compares Apply with the commands that the plan prints: both must result
// in the same state, and Remove must restore the state before.
func TestApply(t *testing.T) {
	requireNFT(t)
	netns.Run(t, func(t *testing.T) {
		host(t)
		p := everywhere(t)
		before := state(t)
		for _, command := range p.Commands() {
			if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", command, err, out)
			}
		}
		byCommand := state(t)
		if steps := apply(t, p); steps != 0 || state(t) != byCommand {
			t.Errorf("Apply after the commands took %d steps, resulting in:\n%swant:\n%s", steps, state(t), byCommand)
		}
		if steps := remove(t, p); steps == 0 || state(t) != before {
			t.Errorf("Remove took %d steps, resulting in:\n%swant:\n%s", steps, state(t), before)
		}
		if steps := remove(t, p); steps != 0 {
			t.Errorf("second Remove took %d steps", steps)
		}
		if steps := apply(t, p); steps != len(p.Commands()) || state(t) != byCommand {
			t.Errorf("Apply took %d steps, want %d, resulting in:\n%swant:\n%s", steps, len(p.Commands()), state(t), byCommand)
		}
	})
}

// TestApplyAfterCrash interrupts Apply after each of its steps: Missing must report
// exactly the rest, and the next Apply must complete it.
func TestApplyAfterCrash(t *testing.T) {
	requireNFT(t)
	netns.Run(t, func(t *testing.T) {
		host(t)
		p := everywhere(t)
		before := state(t)
		apply(t, p)
		whole := state(t)
		remove(t, p)
		for survived := range len(p.Commands()) {
			ended := errors.New("killed")
			func() {
				defer func() { recover() }()
				steps := 0
				routing.Apply(t.Context(), p, func(string) {
					if steps++; steps > survived {
						panic(ended)
					}
				})
			}()
			missing, err := routing.Missing(t.Context(), p)
			if err != nil || len(missing.Commands()) != len(p.Commands())-survived {
				t.Errorf("after %d steps Missing = %q, %v", survived, missing.Commands(), err)
			}
			if steps := apply(t, p); steps != len(p.Commands())-survived || state(t) != whole {
				t.Errorf("after %d steps Apply took %d more, resulting in:\n%s", survived, steps, state(t))
			}
			if remove(t, p); state(t) != before {
				t.Fatalf("state after Remove:\n%s", state(t))
			}
		}
	})
}

// TestRemoveLeavesOthers runs two gateways with the same numbers on one host.
func TestRemoveLeavesOthers(t *testing.T) {
	requireNFT(t)
	netns.Run(t, func(t *testing.T) {
		host(t)
		one := everywhere(t)
		two := planFor(t, returnpath.Options{}, "127.0.0.1:26", "10.8.0.8:80", "10.8.0.1:26")
		apply(t, two)
		apply(t, one)
		remove(t, one)
		missing, err := routing.Missing(t.Context(), two)
		if err != nil || !missing.Empty() {
			t.Errorf("after Remove of one, the other lacks %q, %v", missing.Commands(), err)
		}
		if got := state(t); strings.Contains(got, "sport 22 ") || strings.Contains(got, "10.8.0.7") ||
			strings.Contains(got, "fd08::7 .") {
			t.Errorf("Remove left parts of its plan:\n%s", got)
		}
	})
}

// TestRemoveAll checks that RemoveAll removes leftovers of earlier configurations,
// but nothing of a gateway with other numbers.
func TestRemoveAll(t *testing.T) {
	requireNFT(t)
	netns.Run(t, func(t *testing.T) {
		host(t)
		apply(t, planFor(t, returnpath.Options{Table: 9, Preference: 9, Mark: 9}, "127.0.0.1:26", "10.8.0.8:80"))
		want := state(t)
		apply(t, everywhere(t))
		apply(t, returnpath.New(nil, []returnpath.Redirect{{Prefix: prefix("203.0.113.0/24"), Ports: returnpath.AllPorts,
			To: netip.MustParseAddrPort("10.8.0.1:2577")}}, returnpath.Options{}))
		if err := routing.RemoveAll(t.Context(), returnpath.Options{}, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if got := state(t); got != want {
			t.Errorf("state after RemoveAll:\n%swant:\n%s", got, want)
		}
	})
}

// TestWithoutCapability checks the error and its hint.
func TestWithoutCapability(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		p := planFor(t, returnpath.Options{}, "127.0.0.1:22")
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
			var none [2]unix.CapUserData
			if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
				done <- err
				return
			}
			done <- routing.Apply(context.Background(), p, func(string) {})
		}()
		err := <-done
		var failed *routing.Error
		if !errors.As(err, &failed) || !errors.Is(err, syscall.EPERM) {
			t.Fatalf("Apply without capabilities: %v", err)
		}
		if !strings.Contains(failed.Error(), "ip route replace local default dev lo table 7700") ||
			!strings.Contains(failed.Hint(), "CAP_NET_ADMIN") {
			t.Errorf("Apply without capabilities: %v; hint %q", failed, failed.Hint())
		}
	})
}

func TestHardwareAddress(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		netns.IP(t, "link set br0 address 52:54:00:00:00:05")
		netns.IP(t, "neighbour add 10.8.0.9 lladdr 52:54:00:00:00:09 dev br0 nud permanent")
		for address, want := range map[string]string{
			"10.8.0.1": "52:54:00:00:00:05", "10.8.0.9": "52:54:00:00:00:09",
			"10.8.0.10": "",
		} {
			if got, err := routing.HardwareAddress(netip.MustParseAddr(address)); err != nil || got != want {
				t.Errorf("HardwareAddress(%s) = %q, %v, want %q", address, got, err, want)
			}
		}
		source, mac, err := routing.Source(netip.MustParseAddr("10.8.0.9"))
		if err != nil || source != netip.MustParseAddr("10.8.0.1") || mac != "52:54:00:00:00:05" {
			t.Errorf("Source = %v, %q, %v", source, mac, err)
		}
	})
}

func TestLoopbackUp(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "link set lo down")
		for range 2 {
			if err := routing.LoopbackUp(); err != nil {
				t.Fatal(err)
			}
			if got := netns.IP(t, "link show lo up"); !strings.Contains(got, "lo") {
				t.Errorf("lo is not up: %q", got)
			}
		}
	})
}

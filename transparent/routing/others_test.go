package routing_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/netns"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// TestRulesOfOthers adds rules that have the table and preference of a plan's rule but
// differ in one attribute, before the plan is applied and after. None counts as a rule
// of the plan, and none is removed.
func TestRulesOfOthers(t *testing.T) {
	for _, tt := range []struct{ name, backend, rule string }{
		// Rules that another plan can have; RemoveAll takes them.
		{"wider prefix", "127.0.0.1:22", "from 127.0.0.0/8 iif lo ipproto tcp sport 22 lookup 7700"},
		{"wider range", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 21-23 lookup 7700"},
		{"all of ICMP", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto icmp lookup 7700"},
		// Rules that no plan has.
		{"inverted", "127.0.0.1:22", "not from 127.0.0.1 iif lo ipproto tcp sport 22 lookup 7700"},
		{"all but the backend", "127.0.0.1:22", "not from 127.0.0.1 lookup 7700"},
		{"another destination", "127.0.0.1:22", "from 127.0.0.1 to 192.0.2.0/24 iif lo ipproto tcp sport 22 lookup 7700"},
		{"destination ports", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 dport 1-9 lookup 7700"},
		{"output interface", "127.0.0.1:22", "from 127.0.0.1 iif lo oif br0 ipproto tcp sport 22 lookup 7700"},
		{"type of service", "127.0.0.1:22", "from 127.0.0.1 tos 0x10 iif lo ipproto tcp sport 22 lookup 7700"},
		{"mark", "127.0.0.1:22", "from 127.0.0.1 iif lo fwmark 5 ipproto tcp sport 22 lookup 7700"},
		{"unmarked packets only", "127.0.0.1:22", "from 127.0.0.1 iif lo fwmark 0/0xffffffff ipproto tcp sport 22 lookup 7700"},
		{"masked mark", "10.8.0.7:80", "iif br0 fwmark 7700/0xffff lookup 7700"},
		{"users", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 uidrange 0-0 lookup 7700"},
		{"suppressed prefixes", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 lookup 7700 suppress_prefixlength 0"},
		{"suppressed group", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 lookup 7700 suppress_ifgroup 7"},
		{"tunnel", "127.0.0.1:22", "from 127.0.0.1 iif lo tun_id 9 ipproto tcp sport 22 lookup 7700"},
		{"realm", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 lookup 7700 realms 3"},
		{"goto", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 goto 32766"},
		{"prohibited", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto tcp sport 22 prohibit"},
		{"another message of ICMP", "127.0.0.1:22", "from 127.0.0.1 iif lo ipproto icmp dport 2048-2063 lookup 7700"},
		{"inverted IPv6", "[::1]:22", "not from ::1 iif lo ipproto tcp sport 22 lookup 7700"},
		{"users of IPv6", "[::1]:22", "from ::1 iif lo ipproto tcp sport 22 uidrange 0-0 lookup 7700"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requireNFT(t)
			netns.Run(t, func(t *testing.T) {
				host(t)
				family := ""
				if strings.HasPrefix(tt.backend, "[") {
					family = "-6 "
				}
				add := family + "rule add " + tt.rule + " pref 7700"
				p := planFor(t, returnpath.Options{}, tt.backend)
				rules := func() string { return netns.IP(t, family+"-d rule show") }

				before := rules()
				apply(t, p)
				netns.IP(t, add)
				remove(t, p)
				alone := rules()
				if alone == before {
					t.Fatalf("Remove took ip %s", add)
				}

				// The kernel compares rules of one preference in the order of their addition.
				missing, err := routing.Missing(t.Context(), p)
				if err != nil || len(missing.Replies().Rules) != len(p.Replies().Rules) {
					t.Errorf("with the other rule alone Missing = %q, %v; want all", missing.Commands(), err)
				}
				apply(t, p)
				if missing, err := routing.Missing(t.Context(), p); err != nil || !missing.Empty() {
					t.Errorf("after Apply Missing = %q, %v", missing.Commands(), err)
				}
				remove(t, p)
				if got := rules(); got != alone {
					t.Errorf("after Remove the rules are\n%swant\n%s", got, alone)
				}
				if slices.Contains([]string{"wider prefix", "wider range", "all of ICMP"}, tt.name) {
					return
				}
				apply(t, p)
				if err := routing.RemoveAll(t.Context(), returnpath.Options{}, func(string) {}); err != nil {
					t.Error(err)
				}
				if got := rules(); got != alone {
					t.Errorf("after RemoveAll the rules are\n%swant\n%s", got, alone)
				}
			})
		})
	}
}

// TestRuleByHand checks that Missing accepts the rules in the documentation, which have
// no label, and that Remove does not delete one if the kernel would delete another rule
// instead.
func TestRuleByHand(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		p := planFor(t, returnpath.Options{}, "127.0.0.1:22")
		before := netns.IP(t, "rule show")
		byHand := func() {
			netns.IP(t, "rule add from 127.0.0.1/32 iif lo ipproto tcp sport 22 lookup 7700 pref 7700")
			netns.IP(t, "rule add from 127.0.0.1/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700")
		}
		byHand()
		if missing, err := routing.Missing(t.Context(), p); err != nil || len(missing.Rules) != 0 {
			t.Errorf("Missing = %q, %v", missing.Commands(), err)
		}
		remove(t, p)
		if got := netns.IP(t, "rule show"); got != before {
			t.Errorf("after Remove the rules are\n%swant\n%s", got, before)
		}
		netns.IP(t, "rule add from 127.0.0.1/32 iif lo ipproto tcp sport 22 uidrange 0-0 lookup 7700 pref 7700")
		byHand()
		other := netns.IP(t, "rule show pref 7700")
		err := routing.Remove(t.Context(), p, func(string) {})
		var failed *routing.Error
		if !errors.As(err, &failed) || !strings.Contains(failed.Hint(), "ip -d rule") {
			t.Errorf("Remove = %v, want an error with a hint", err)
		}
		if got := netns.IP(t, "rule show pref 7700"); !strings.Contains(got, "uidrange") {
			t.Errorf("Remove deleted a rule of\n%sleaving\n%s", other, got)
		}
	})
}

// named returns the plan for backends given as NAME:PORT, which resolve to address.
func named(t *testing.T, address string, ports ...uint16) returnpath.Plan {
	t.Helper()
	var targets returnpath.Targets
	for _, port := range ports {
		targets.Backends = append(targets.Backends, returnpath.Target{Host: "mail.test",
			Backend: returnpath.Backend{Ports: returnpath.Ports{Low: port, High: port}}})
	}
	p, err := routing.Plan(t.Context(), targets, routing.Surroundings{
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			if address == "" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr(address)}, nil
		},
	})
	if err != nil && address != "" {
		t.Fatal(err)
	}
	return p
}

// TestNameChangesAddress checks that rules for an earlier address of a name are found
// and removed, and that the rules of other gateways with the same numbers are kept.
func TestNameChangesAddress(t *testing.T) {
	for _, tt := range []struct{ name, earlier, now string }{
		{"rules", "127.0.0.1", "127.0.0.9"},
		{"rules, the other family", "127.0.0.1", "::1"},
		{"marks of a link", "10.8.0.7", "10.8.0.8"},
		{"marks of this host", "10.8.0.1", "fd08::1"},
		{"from rules to marks", "127.0.0.1", "10.8.0.7"},
		{"from marks to rules", "10.8.0.7", "127.0.0.1"},
		{"name no longer resolves: rules", "127.0.0.1", ""},
		{"name no longer resolves: marks", "10.8.0.7", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requireNFT(t)
			netns.Run(t, func(t *testing.T) {
				host(t)
				apply(t, planFor(t, returnpath.Options{}, "127.0.0.1:26", "10.8.0.9:25", "10.8.0.1:26", "[fd08::1]:26"))
				others := state(t)
				earlier, now := named(t, tt.earlier, 25, 465), named(t, tt.now, 25, 465)
				apply(t, earlier)
				if stale, err := routing.Stale(t.Context(), earlier); err != nil || len(stale) > 0 {
					t.Errorf("before the change Stale = %q, %v", stale, err)
				}
				if stale, err := routing.Stale(t.Context(), now); err != nil || len(stale) == 0 {
					t.Errorf("after the change Stale = %q, %v", stale, err)
				}
				apply(t, now)
				remove(t, now)
				if got := state(t); got != others {
					t.Errorf("after Remove:\n%swant:\n%s", got, others)
				}
			})
		})
	}
}

// TestApplyWithoutNFT checks that a plan that needs nft only to reassemble fragments is
// applied without that table, and that a plan with marks is not applied at all.
func TestApplyWithoutNFT(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		host(t)
		netns.Sysctl(t, "net.ipv4.conf.br0.forwarding", "0")
		netns.Directory(t, "/usr/sbin")
		t.Setenv("PATH", "")
		if _, err := exec.LookPath("nft"); err == nil {
			t.Skip("nft is not in /usr/sbin")
		}
		udp := planFor(t, returnpath.Options{}, "udp 10.8.0.7:53")
		err := routing.Apply(t.Context(), udp, func(string) {})
		if !errors.Is(err, routing.ErrReassembly) || !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("Apply = %v, want ErrReassembly", err)
		}
		udp.Filter = nil
		if missing, err := routing.Missing(t.Context(), udp); err != nil || !missing.Empty() {
			t.Errorf("Missing = %q, %v", missing.Commands(), err)
		}
		tcp := planFor(t, returnpath.Options{Recipe: returnpath.Marks, Preference: 9}, "10.8.0.7:80")
		if err := routing.Apply(t.Context(), tcp, func(string) {}); !errors.Is(err, exec.ErrNotFound) || errors.Is(err, routing.ErrReassembly) {
			t.Errorf("Apply of marks = %v, want an error about nft alone", err)
		}
		if missing, _ := routing.Missing(t.Context(), tcp); len(missing.Rules) != len(tcp.Rules) {
			t.Error("Apply of marks changed rules")
		}
	})
}

// TestDeviceNames checks that no plan contains a name with shell metacharacters.
func TestDeviceNames(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		for i, name := range []string{"a;id>pwn", "a$(id)", "a'b", `a"b`, "-a", "a`id`", "a|b", "a&b", "ü", "a#b", "a*", "a\\b"} {
			netns.IP(t, "link add veth"+string(rune('a'+i))+" type veth peer name peer"+string(rune('a'+i)))
			device := "veth" + string(rune('a'+i))
			if out, err := exec.Command("ip", "link", "set", "dev", device, "name", name, "up").CombinedOutput(); err != nil {
				t.Fatalf("rename to %q: %v: %s", name, err, out)
			}
			prefix := netip.AddrFrom4([4]byte{10, 20, byte(i), 1}).String()
			if out, err := exec.Command("ip", "address", "add", prefix+"/24", "dev", name).CombinedOutput(); err != nil {
				t.Fatalf("address of %q: %v: %s", name, err, out)
			}
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 20, byte(i), 2}), 25)
			targets := returnpath.Targets{Backends: []returnpath.Target{{Backend: returnpath.Server(at, false)}}}
			p, err := routing.Plan(t.Context(), targets, routing.Surroundings{})
			var refused *routing.DeviceError
			if !errors.As(err, &refused) || !p.Empty() || refused.Hint() == "" {
				t.Errorf("%q: plan %q, %v; want an error", name, p.Commands(), err)
			}
		}
		netns.IP(t, "link add eth0.100 type veth peer name p+_@-.1")
		netns.IP(t, "link set eth0.100 up")
		netns.IP(t, "address add 10.30.0.1/24 dev eth0.100")
		if p := planFor(t, returnpath.Options{}, "10.30.0.2:25"); !strings.Contains(strings.Join(p.Commands(), "\n"), "iif eth0.100 ") {
			t.Errorf("a plain name: %q", p.Commands())
		}
	})
}

// TestEqualRuleOfAnotherProgram adds the rules of a plan with the label of another program. They are in
// force, so that Apply adds no others, and Remove leaves them. Those with a plan's label, or typed
// without one, are the control.
func TestEqualRuleOfAnotherProgram(t *testing.T) {
	for _, backend := range []string{"127.0.0.1:22", "[::1]:22"} {
		for label, removed := range map[string]bool{"protocol 4": false, "protocol 99": false, "protocol 186": false,
			"": true, "protocol 100": true, "protocol 185": true} {
			t.Run(backend+" "+label, func(t *testing.T) {
				requireNFT(t)
				netns.Run(t, func(t *testing.T) {
					host(t)
					p := planFor(t, returnpath.Options{}, backend)
					family := "-4 "
					if strings.HasPrefix(backend, "[") {
						family = "-6 "
					}
					for _, r := range p.Rules {
						r.Owner = 0
						netns.IP(t, strings.TrimPrefix(r.String(), "ip ")+" "+label)
					}
					rules := func() string { return netns.IP(t, family+"-d rule show") }
					before := rules()
					apply(t, p)
					if got := rules(); got != before {
						t.Errorf("after Apply the rules are\n%swant\n%s", got, before)
					}
					remove(t, p)
					if got := rules(); (got != before) != removed {
						t.Errorf("after Remove the rules are\n%sthey were\n%s", got, before)
					}
					if err := routing.RemoveAll(t.Context(), returnpath.Options{}, func(string) {}); err != nil {
						t.Error(err)
					}
					if got := rules(); (got != before) != removed {
						t.Errorf("after RemoveAll the rules are\n%sthey were\n%s", got, before)
					}
				})
			})
		}
	}
}

// TestWiderRuleCovers looks whether rules for a range of ports cover those of a plan, as the kernel
// decides. A rule that another one precedes covers nothing.
func TestWiderRuleCovers(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		want       bool
	}{
		{"none", "", false},
		{"a range", "from 127.0.0.1 iif lo ipproto tcp sport 21-23 lookup 7700 pref 7700", true},
		{"of another preference", "from 127.0.0.1 iif lo ipproto tcp sport 21-23 lookup 7700 pref 77", true},
		{"all ports", "from 127.0.0.1 iif lo ipproto tcp lookup 7700 pref 7700", true},
		{"another range", "from 127.0.0.1 iif lo ipproto tcp sport 23-25 lookup 7700 pref 7700", false},
		{"half of the ports", "from 127.0.0.1 iif lo ipproto tcp sport 21-22 lookup 7700 pref 7700", false},
		{"another protocol", "from 127.0.0.1 iif lo ipproto udp sport 21-23 lookup 7700 pref 7700", false},
		{"another backend", "from 127.0.0.2 iif lo ipproto tcp sport 21-23 lookup 7700 pref 7700", false},
		{"another table", "from 127.0.0.1 iif lo ipproto tcp sport 21-23 lookup 7701 pref 7700", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				host(t)
				netns.IP(t, "route add local default dev lo table 7700")
				netns.IP(t, "route add local default dev lo table 7701")
				if tt.rule != "" {
					netns.IP(t, "rule add "+tt.rule)
				}
				p := planFor(t, returnpath.Options{}, "127.0.0.1:22")
				ports := p.Rules[0]
				ports.Ports.High++ // 22 and 23
				covered := func(r returnpath.Rule, missing ...returnpath.Route) bool {
					part := returnpath.Plan{Rules: []returnpath.Rule{r}, Routes: missing}
					return len(routing.WithoutCovered(part, routing.Lookup).Rules) == 0
				}
				if got := covered(ports); got != tt.want {
					t.Errorf("%s is covered: %v", ports, got)
				}
				if covered(ports, returnpath.Route{Table: 7700}) {
					t.Errorf("%s is covered although a route is missing", ports)
				}
				for _, r := range p.Rules {
					if r.IsICMP() && covered(r) {
						t.Errorf("%s is covered", r)
					}
				}
			})
		})
	}
}

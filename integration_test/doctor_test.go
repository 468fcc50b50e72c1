package integration_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// diagnosed runs the doctor with the flags and checks its exit code.
func diagnosed(t *testing.T, want int, flags ...string) string {
	t.Helper()
	return diagnosedAs(t, lab.Command{}, want, flags...)
}

// diagnosedAs is [diagnosed] with the privileges of c.
func diagnosedAs(t *testing.T, c lab.Command, want int, flags ...string) string {
	t.Helper()
	c.Args = append(append(c.Args, "doctor"), flags...)
	if c.Name == "" {
		c.Name = lab.Binary(t)
	}
	text, code := lab.Run(t, c)
	if code != want {
		t.Errorf("doctor: exit code %d, want %d:\n%s", code, want, text)
	}
	return text
}

// prescribed returns the commands below the doctor's findings, for a shell.
func prescribed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, command)
		}
	}
	return strings.Join(lines, "")
}

// finding is a finding in the doctor's JSON.
type finding struct {
	Code      string   `json:"code"`
	Component string   `json:"component"`
	Target    string   `json:"target"`
	Status    string   `json:"status"`
	Detail    string   `json:"detail"`
	Action    []string `json:"action,omitempty"`
}

// findings runs the doctor and returns its findings, except those that depend on the
// machine.
func findings(t *testing.T, c lab.Command, want int, flags ...string) []finding {
	t.Helper()
	text := diagnosedAs(t, c, want, append([]string{"--json"}, flags...)...)
	var report struct {
		Findings []finding `json:"findings"`
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&report); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return slices.DeleteFunc(report.Findings, func(f finding) bool {
		return slices.Contains([]string{"descriptors", "backlog", "conntrack"}, f.Code)
	})
}

// brief formats each finding as a line.
func brief(all []finding) string {
	var b strings.Builder
	for _, f := range all {
		if f.Code == "sandbox" && f.Status == "ok" {
			continue // in every report
		}
		fmt.Fprintf(&b, "%s %s %s\n", f.Code, f.Target, f.Status)
	}
	return b.String()
}

// In every place, for IPv4 and IPv6: without the routes the doctor says so, and the
// commands that it prints fix it.
func TestDoctorsCommandsFixEveryPlace(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				_, g := stage(t, p.flags(), p)
				wantLost(t, g)
				broken := diagnosed(t, 3, p.flags()...)
				for _, address := range p.backends {
					if !strings.Contains(broken, "return path  "+address) {
						t.Errorf("no finding about the return path of %s:\n%s", address, broken)
					}
				}
				lab.Shell(t, prescribed(broken))
				fixed := diagnosed(t, 0, p.flags()...)
				if strings.Contains(fixed, "not those of unproxy routes") || !strings.Contains(fixed, "open: unproxy (process ") {
					t.Errorf("fixed, the doctor says\n%s", fixed)
				}
				wantSeen(t, g)
			})
		})
	}
}

// test ──LOCAL──▶ gateway 127.0.0.1:2000 ──▶ 127.0.0.1:25, [::1]:25
//
// The health check of a load balancer succeeds while every client times out. /readyz
// and the log report it, and the line of a lost connection has the command that fixes
// it.
func TestBrokenReturnPathIsNotReady(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx", "nft")
		p := places[0]
		p.start(t)
		g := lab.StartGatewayAs(t, lab.Command{Limit: true, Capabilities: lab.NetRaw()},
			append(p.flags(), "--admin", adminAt, "--self-test-interval", "1s")...)
		becomes := func(want string) {
			t.Helper()
			await.Until(t, fmt.Sprintf("the reasons in /readyz are %q", want), func() bool {
				return strings.Join(notReady(t, adminAt), " ") == want
			})
		}
		becomes("return_path")
		broken := g.WaitLog(t, "return path broken")
		broken.Expect(t, "level", "error", "backend", "127.0.0.1:25", "forward", "127.0.0.1:2000")
		healthCheck(t, g)
		if reasons := strings.Join(notReady(t, adminAt), " "); reasons != "return_path" {
			t.Errorf("with a successful health check the reasons are %q", reasons)
		}

		wantEnd(t, lab.Send(t, "127.0.0.1:2000", headerOf(client4), []byte(whoAsk)))
		lost := g.NextConnection(t)
		lost.Expect(t, "outcome", "no_return_path", "action", broken.String("action"))
		lab.Shell(t, lost.String("action"))
		wantEnd(t, lab.Send(t, "127.0.0.1:2000", headerOf(client6), []byte(whoAsk)))
		lost = g.NextConnection(t)
		lost.Expect(t, "outcome", "no_return_path")
		lab.Shell(t, lost.String("action"))
		becomes("")
		g.WaitLog(t, "return path works again").Expect(t, "level", "info")
		wantSeen(t, g)

		netns.IP(t, "route flush table 7700")
		becomes("return_path")
		await.Until(t, "the log reports it broken again", func() bool {
			lines := g.Logged("return path broken")
			return len(lines) == 3 && lines[2].String("action") == "ip route replace local default dev lo table 7700"
		})
		lab.Shell(t, "ip route replace local default dev lo table 7700")
		becomes("")
		wantSeen(t, g)
	})
}

// healthCheck sends a LOCAL header and wants the backend's answer.
func healthCheck(t *testing.T, g *lab.Gateway) {
	t.Helper()
	c := lab.Send(t, "127.0.0.1:2000", lab.Local(), []byte(whoAsk))
	wantRead(t, c, "HTTP/1.1 200 OK")
	c.Close()
	g.NextConnection(t)
}

// A gateway that starts before its backend logs that the return path is untested, and
// is ready. When the backend is up, it logs that the return path works.
func TestGatewayBeforeBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		g := transparentGateway(t, "127.0.0.1:25", "--admin", adminAt, "--self-test-interval", "1s")
		g.WaitLog(t, "return path not tested").Expect(t, "level", "warn", "backend", "127.0.0.1:25")
		await.Until(t, "the gateway is ready", func() bool { return len(notReady(t, adminAt)) == 0 })
		lab.Listen(t, "127.0.0.1:25")
		g.WaitLog(t, "return path works").Expect(t, "level", "info")
	})
}

// The log has the commands that fix the return path also without a self-test.
func TestFixWithoutSelfTest(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Listen(t, "127.0.0.1:25")
		g := lab.StartGateway(t, transparentFlags("127.0.0.1:25", "--self-test-interval", "0",
			"--connect-timeout", "300ms")...)
		wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(client4)))
		g.NextConnection(t).Expect(t, "outcome", "no_return_path", "action",
			"ip route replace local default dev lo table 7700; ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 25 lookup 7700 pref 7700 protocol 100; "+
				"ip rule add from 127.0.0.1/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700 protocol 100")
		if lines := g.Logged("return path broken"); len(lines) > 0 {
			t.Errorf("tested although the self-test is off: %v", lines)
		}
	})
}

// Rules that were made for several forwards are the gateway's own, also for a
// doctor that is asked about one of them: a rule for a range of ports, a table of
// the packet filter with more servers. The control is a rule of another origin.
func TestDoctorKnowsItsOwnRules(t *testing.T) {
	for _, tt := range []struct{ name, backend, own string }{
		{"loopback", "127.0.0.1", "apply"},
		{"loopback, IPv6", "[::1]", "apply"},
		{"own address", "10.0.0.1", "apply"},
		{"own address, IPv6", "[fd00::1]", "apply"},
		{"a rule of another origin", "127.0.0.1", "ip route add local default dev lo table 99; ip rule add from 127.0.0.1 iif lo lookup 99 pref 99"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nft")
				outsider(t)
				flags := func(ports ...string) []string {
					all := []string{"--trust", "127.0.0.1", "--transparent"}
					for _, port := range ports {
						all = append(all, "--forward", "127.0.0.1:20"+port+"="+tt.backend+":"+port)
					}
					return all
				}
				lab.Listen(t, tt.backend+":22")
				if tt.own == "apply" {
					routes(t, "apply", flags("21", "22", "23"))
				} else {
					lab.Shell(t, tt.own)
				}
				foreign := strings.Contains(diagnosed(t, 0, flags("22")...), "not those of unproxy routes")
				if foreign != (tt.own != "apply") {
					t.Errorf("the doctor calls the rules those of others: %v", foreign)
				}
			})
		})
	}
}

// A server that is not there: the doctor does not name the gateway's own listener
// on the same port, which would be a loop. The control is another program's.
//
//	10.0.0.1:7001 unproxy ──▶ 127.0.0.1:7001, where no program listens
func TestDoctorDoesNotAdviseALoop(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 10.0.0.1/24 dev lo")
		netns.IP(t, "address add 10.0.0.2/24 dev lo")
		flags := []string{"--forward", "10.0.0.1:7001=127.0.0.1:7001", "--trust", "127.0.0.1"}
		lab.StartGateway(t, flags...)
		for _, asked := range [][]string{flags, {"--forward", ":2000=127.0.0.1:7001", "--trust", "127.0.0.1"}} {
			if text := diagnosed(t, 3, asked...); strings.Contains(text, "10.0.0.1:7001\n") || strings.Contains(text, "a program listens") {
				t.Errorf("the doctor advises a loop:\n%s", text)
			}
		}
		lab.Listen(t, "10.0.0.2:7001")
		if text := diagnosed(t, 3, flags...); !strings.Contains(text, "; a program listens on 10.0.0.2:7001\n") {
			t.Errorf("the doctor does not say where the server listens:\n%s", text)
		}
	})
}

// The rules are there, and of no effect: the doctor names what comes before
// them, and what it prints fixes it.
//
//	the gateway's host ── net0 ══ the outsider, the default gateway
func TestDoctorFindsPrecedingRules(t *testing.T) {
	for _, tt := range []struct{ name, rule, backend, want string }{
		{"loopback", "rule add from 127.0.0.0/8 lookup main pref 99", "127.0.0.1:25", "99: from 127.0.0.0/8 lookup main"},
		{"dedicated address", "rule add from 198.51.100.0/24 lookup main pref 90", "198.51.100.5:25", "sends them out on net0: 90: from 198.51.100.0/24 lookup main"},
		{"dedicated address, IPv6", "-6 rule add from fd51::/16 lookup main pref 90", "[fd51::5]:25", "sends them out on net0: 90: from fd51::/16 lookup main"},
		{"prohibited", "rule add from 198.51.100.5 ipproto tcp prohibit pref 90", "198.51.100.5:25", "90: from 198.51.100.5/32 ipproto tcp forbids it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				outsider(t)
				lab.Listen(t, tt.backend)
				returnPath(t, tt.backend)
				flags := transparentFlags(tt.backend)
				diagnosed(t, 0, flags...)
				netns.IP(t, tt.rule)
				broken := diagnosed(t, 3, flags...)
				if !strings.Contains(broken, tt.want) {
					t.Errorf("the doctor does not say %q:\n%s", tt.want, broken)
				}
				lab.Shell(t, prescribed(broken))
				diagnosed(t, 0, flags...)
			})
		})
	}
}

// the gateway's host ── back0 10.9.0.1 ══ 10.9.0.2 the backend's host, which has no
// route to clients and so drops packets from them
//
// The gateway's host is set up. The doctor says which commands the backend's host
// needs, and these fix it.
func TestDoctorNamesCommandsForTheBackendsHost(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx")
		h := container(t)
		h.IP(t, "route del default")
		h.IP(t, "-6 route del default")
		p := places[3]
		lab.NginxOn(t, h, whoAmI(p.backends))
		await.Until(t, "the backends answer the gateway's host", func() bool { return answers(t, p) })
		routes(t, "apply", p.flags())
		broken := diagnosed(t, 3, p.flags()...)
		for _, want := range []string{"ip route replace default via 10.9.0.1", "ip -6 route replace default via fd09::1"} {
			if !strings.Contains(prescribed(broken), "\n#   "+want+"\n") {
				t.Fatalf("the doctor does not say %q:\n%s", want, broken)
			}
			h.Output(t, strings.Fields(want)...)
		}
		diagnosed(t, 0, p.flags()...)
	})
}

// The same with a default route that leads elsewhere and must stay: the command that
// the doctor prints routes the replies to the gateway.
func TestDoctorKeepsTheDefaultRoute(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx", "nft")
		p := places[3]
		h := container(t)
		h.IP(t, "route replace default dev lo")
		h.IP(t, "-6 route replace default dev lo")
		lab.NginxOn(t, h, whoAmI(p.backends))
		await.Until(t, "the backends answer the gateway's host", func() bool { return answers(t, p) })
		routes(t, "apply", p.flags())
		broken := diagnosed(t, 3, p.flags()...)
		_, rest, _ := strings.Cut(prescribed(broken), "#   unproxy routes print --backend-host")
		command, _, found := strings.Cut(rest, " | ssh root@")
		if !found {
			t.Fatalf("the doctor prints no command for the backend's host:\n%s", broken)
		}
		h.Shell(t, lab.Output(t, "sh", "-c", lab.Binary(t)+" routes print --backend-host"+command))
		diagnosed(t, 0, p.flags()...)
	})
}

// Without a default route the kernel drops replies before a rule can mark them.
func TestDoctorReportsMissingDefaultRoute(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		p := places[2]
		outsider(t)
		netns.IP(t, "route del default")
		lab.Listen(t, p.backends[0])
		flags := []string{"--forward", "127.0.0.1:2000=" + p.backends[0], "--trust", "127.0.0.1", "--transparent"}
		routes(t, "apply", flags)
		wantCause(t, "default_route", flags)
		netns.IP(t, "route add default via 10.0.0.2")
		diagnosed(t, 0, flags...)
	})
}

// wantCause checks that exactly one finding fails, and its code.
func wantCause(t *testing.T, code string, flags []string) {
	t.Helper()
	var failed []string
	for _, f := range findings(t, lab.Command{}, 3, flags...) {
		if f.Status == "fail" {
			failed = append(failed, f.Code)
		}
	}
	if !slices.Equal(failed, []string{code}) {
		t.Errorf("the doctor finds %q, want %s", failed, code)
	}
}

// The routes are set up, but a firewall drops packets with the clients' addresses: the
// doctor shows the rule.
func TestDoctorHintsAtFirewalls(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		lab.Listen(t, "127.0.0.1:25")
		returnPath(t, "127.0.0.1:25")
		lab.Output(t, "nft", "add table inet filter; add chain inet filter input { type filter hook input priority 0; }; add rule inet filter input iif lo ip saddr 192.0.2.0/24 drop")
		all := findings(t, lab.Command{}, 3, transparentFlags("127.0.0.1:25")...)
		last := all[len(all)-1]
		if all[len(all)-2].Code != "replies_lost" || last.Code != "firewall" ||
			!strings.Contains(strings.Join(last.Action, "\n"), "ip saddr 192.0.2.0/24 drop") {
			t.Errorf("found %+v", all)
		}
		lab.Output(t, "nft", "flush ruleset")
		diagnosed(t, 0, transparentFlags("127.0.0.1:25")...)
	})
}

// The JSON for one backend that works and one without routes. The actions are an
// interface: scripts run them.
func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Listen(t, "127.0.0.1:25")
		lab.Listen(t, "[::1]:25")
		returnPath(t, "127.0.0.1:25")
		flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:25,[::1]:25", "--trust", "127.0.0.1", "--transparent"}
		all := slices.DeleteFunc(findings(t, lab.Command{}, 3, flags...), func(f finding) bool {
			return f.Code == "sandbox" // depends on the kernel
		})
		got, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if want := readFile(t, filepath.Join("testdata", "doctor.json")); string(got)+"\n" != string(want) {
			t.Errorf("found\n%s\nwant\n%s", got, want)
		}
	})
}

// Each cause is reported, such as a table flushed by a network manager, a backend that
// is down, or another program's listener. Consequences of a cause are not.
func TestDoctorNamesTheCause(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Listen(t, "127.0.0.1:25")
		returnPath(t, "127.0.0.1:25")
		flags := func(forward string) []string {
			return []string{"--forward", forward, "--trust", "127.0.0.1", "--transparent"}
		}
		const ok = "net_raw capabilities ok\nclient_ports client ports ok\n"
		for _, tt := range []struct {
			name, do, forward string
			code              int
			want              string
		}{
			{"all is set up", "", "127.0.0.1:2000=127.0.0.1:25", 0,
				ok + "listener 127.0.0.1:2000 ok\nbackend 127.0.0.1:25 ok\nreturn_path 127.0.0.1:25 ok\n"},
			{"another program listens there", "", "127.0.0.1:25=127.0.0.2:25", 3,
				ok + "listener_taken 127.0.0.1:25 fail\nbackend_refused 127.0.0.2:25 fail\nrules_missing 127.0.0.2:25 fail\n"},
			{"no listener", "", "127.0.0.1:2000=127.0.0.1:26", 3,
				ok + "listener 127.0.0.1:2000 ok\nbackend_refused 127.0.0.1:26 fail\nrules_missing 127.0.0.1:26 fail\n"},
			{"no such name", "", "127.0.0.1:2000=nobody.invalid:26", 3,
				ok + "listener 127.0.0.1:2000 ok\nbackend_name nobody.invalid fail\n"},
			{"no route to it", "", "127.0.0.1:2000=203.0.113.1:25", 3,
				ok + "listener 127.0.0.1:2000 ok\nbackend_unreachable 203.0.113.1:25 fail\n"},
			{"flushed", "ip route flush table 7700", "127.0.0.1:2000=127.0.0.1:25", 3,
				ok + "listener 127.0.0.1:2000 ok\nbackend 127.0.0.1:25 ok\ntable_empty 127.0.0.1:25 fail\n"},
			{"IPv6 is off", "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", "127.0.0.1:2000=[::1]:25", 3,
				ok + "listener 127.0.0.1:2000 ok\nipv6 [::1]:25 fail\n"},
			{"127/8 is open", "ip route replace local default dev lo table 7700; sysctl -qw net.ipv4.conf.all.route_localnet=1",
				"127.0.0.1:2000=127.0.0.1:25", 0,
				ok + "route_localnet route_localnet warn\nlistener 127.0.0.1:2000 ok\nbackend 127.0.0.1:25 ok\nreturn_path 127.0.0.1:25 ok\n"},
		} {
			if tt.do != "" {
				lab.Shell(t, tt.do)
			}
			if got := brief(findings(t, lab.Command{}, tt.code, flags(tt.forward)...)); got != tt.want {
				t.Errorf("%s: found\n%swant\n%s", tt.name, got, tt.want)
			}
		}
	})
}

// The doctor says why the capability is missing. For an ordinary user it reports what
// it could not examine, and the missing routes.
func TestDoctorWithoutCapability(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "setpriv", "setcap")
		lab.Listen(t, "127.0.0.1:25")
		program := filepath.Join(t.TempDir(), "unproxy")
		if err := os.WriteFile(program, readFile(t, lab.Binary(t)), 0o755); err != nil {
			t.Fatal(err)
		}
		lab.Output(t, "setcap", "cap_net_raw+ep", program)
		daemon, err := user.Lookup("daemon")
		if err != nil {
			t.Fatal(err)
		}
		// The second setpriv is root without capabilities, so it is like an ordinary user.
		as := func(words ...string) lab.Command {
			return lab.Command{Name: "setpriv", Args: slices.Concat([]string{"--securebits", "+noroot",
				"--inh-caps", "-all", "setpriv"}, words, []string{program})}
		}
		for _, tt := range []struct {
			name   string
			as     lab.Command
			detail string // of the finding; "" if it is ok
		}{
			{"bounding set", lab.Command{Limit: true, Capabilities: []uintptr{unix.CAP_NET_BIND_SERVICE}}, "the bounding set"},
			{"ordinary user", lab.Command{User: daemon}, "this user has none"},
			{"file capabilities", as("--inh-caps", "-all"), ""},
			{"file capabilities under no_new_privs", as("--no-new-privs"), "no effect under no_new_privs"},
		} {
			all := findings(t, tt.as, 3, transparentFlags("127.0.0.1:25")...)
			want := "net_raw capabilities fail\nlistener 127.0.0.1:0 ok\nbackend 127.0.0.1:25 ok\nrules_missing 127.0.0.1:25 fail\n"
			if tt.detail == "" {
				want = strings.Replace(want, "fail", "ok", 1)
			}
			got := strings.Replace(brief(all), "client_ports client ports ok\n", "", 1)
			if got != want || !strings.Contains(all[0].Detail, tt.detail) {
				t.Errorf("%s: found\n%s%s\nwant\n%s%s", tt.name, got, all[0].Detail, want, tt.detail)
			}
		}
	})
}

// Destinations that headers name and connections that the packet filter diverts cannot
// be tested. The doctor checks the rules and warns. The commands that it prints set up
// both.
func TestDoctorsCommandsFixDivertedConnections(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		s := newTProxyScene(t)
		server := s.listen(t, 25)
		flags := []string{"--forward", tproxyListener, "--trust", "10.1.0.2",
			"--transparent", "--allow-destination", "10.2.0.0/16"}
		g := lab.StartGateway(t, flags...)
		s.refuses(t, "203.0.113.7:1000")
		broken := diagnosed(t, 0, flags...)
		if !strings.Contains(broken, "listener     :7000") || !strings.Contains(broken, "return path  10.2.0.0/16") {
			t.Errorf("the doctor says\n%s", broken)
		}
		lab.Shell(t, prescribed(broken))
		fixed := diagnosed(t, 0, flags...)
		if !strings.Contains(fixed, "ok      the packet filter hands connections to it") || !strings.Contains(fixed, "ok      the rules for it are in force") {
			t.Errorf("fixed, the doctor says\n%s", fixed)
		}
		from := s.send(t, "203.0.113.7:1000", lab.V2(client4, netip.MustParseAddrPort("10.2.1.7:25")))
		converse(t, from, server.Next(t))
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", client4.String(), "backend", "10.2.1.7:25",
			"transparent", "true")
	})
}

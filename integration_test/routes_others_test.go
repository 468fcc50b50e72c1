package integration_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
	"unproxy/transparent/returnpath"
)

// A rule of another program with the same table and preference is not taken for the
// gateway's, and stays, whatever the order.
func TestRoutesLeaveRulesOfOthers(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		flags := []string{"--forward", "127.0.0.1:2000=127.0.0.1:25,[::1]:25", "--trust", "127.0.0.1", "--transparent"}
		netns.IP(t, "rule add not from 127.0.0.1 iif lo ipproto tcp sport 25 lookup 7700 pref 7700")
		netns.IP(t, "-6 rule add from ::1 iif lo ipproto tcp sport 25 lookup 7700 pref 7700 suppress_prefixlength 0")
		before := rules(t)
		if text, code := lab.RunGateway(t, append([]string{"routes", "check"}, flags...)...); code != 3 || strings.Count(text, "missing  ip") != 6 {
			t.Errorf("check ends with %d: %s", code, text)
		}
		routes(t, "apply", flags)
		routes(t, "check", flags)
		routes(t, "remove", flags)
		if after := rules(t); after != before {
			// Their rules keep the table's routes.
			t.Logf("the rules were\n%sand are\n%s", before, after)
		}
		for _, command := range []string{"rule show pref 7700", "-6 rule show pref 7700"} {
			if got := netns.IP(t, command); strings.Count(got, "\n") != 1 {
				t.Errorf("ip %s:\n%swant the other program's alone", command, got)
			}
		}
	})
}

// A backend's name changes its address: check warns about the rules of the earlier
// one, and remove takes them.
func TestRoutesFollowNames(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		hosts := lab.WriteFile(t, "hosts", "127.0.0.5 backend.test\n")
		lab.Output(t, "mount", "--bind", hosts, "/etc/hosts")
		flags := []string{"--forward", "127.0.0.1:2000=backend.test:25", "--trust", "127.0.0.1", "--transparent"}
		before := policy(t)
		routes(t, "apply", flags)
		if text := routes(t, "check", flags); strings.Contains(text, "warning") {
			t.Errorf("before the change check says: %s", text)
		}
		if err := os.WriteFile(hosts, []byte("127.0.0.6 backend.test\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		text, code := lab.RunGateway(t, append([]string{"routes", "check"}, flags...)...)
		if code != 3 || !strings.Contains(text, "former one: ip rule del from 127.0.0.5/32 iif lo ipproto tcp sport 25") {
			t.Errorf("check ends with %d: %s", code, text)
		}
		routes(t, "apply", flags)
		if text, code := lab.RunGateway(t, append([]string{"routes", "check"}, flags...)...); code != 0 || !strings.Contains(text, "127.0.0.5") {
			t.Errorf("after apply check ends with %d: %s", code, text)
		}
		routes(t, "remove", flags)
		if after := policy(t); after != before {
			t.Errorf("the rules were\n%sand are\n%s", before, after)
		}
	})
}

// No format prints the name of an interface that is a command.
func TestRoutesPrintPlainNames(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const name = "a;id>pwn"
		lab.Output(t, "ip", "link", "add", name, "type", "veth", "peer", "name", "peer0")
		lab.Output(t, "ip", "link", "set", "dev", name, "up")
		lab.Output(t, "ip", "address", "add", "10.9.0.1/24", "dev", name)
		lab.Output(t, "ip", "-6", "address", "add", "fd09::1/64", "dev", name, "nodad")
		for _, backend := range []string{"10.9.0.2:25", "[fd09::2]:25"} {
			flags := []string{"--forward", "127.0.0.1:2000=" + backend, "--trust", "127.0.0.1", "--transparent"}
			for _, recipe := range returnpath.RecipeNames() {
				for _, format := range returnpath.FormatNames() {
					refusesName(t, append([]string{"routes", "print", "--format", format, "--recipe", recipe}, flags...))
				}
			}
			refusesName(t, append([]string{"routes", "print", "--backend-host"}, flags...))
			refusesName(t, append([]string{"routes", "print", "--backend-host", "--gateway", "dev:" + name}, flags...))
			refusesName(t, append([]string{"routes", "apply"}, flags...))
			if text, code := lab.Run(t, lab.Command{Name: "../scripts/routes.sh", Args: []string{"apply", backend}}); code != 1 ||
				strings.Contains(text, ">pwn") {
				t.Errorf("routes.sh ends with %d: %s", code, text)
			}
		}
	})
}

// refusesName wants a command to fail because of an interface's name.
func refusesName(t *testing.T, args []string) {
	t.Helper()
	text, code := lab.RunGateway(t, args...)
	if code == 0 || strings.Contains(text, "ip rule") || !strings.Contains(text, "unproxy: error: ") ||
		!strings.Contains(text, "letters, digits") {
		t.Errorf("%s: exit code %d: %s", strings.Join(args, " "), code, text)
	}
}

// The script adds the rules that unproxy routes apply adds, for TCP and UDP, and
// each finds and removes those of the other.
func TestRoutesScriptIsEqual(t *testing.T) {
	for _, p := range append(places[:len(places):len(places)], behindRouter) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Require(t, "nft")
				outsider(t)
				p.machine(t)
				for protocol, scheme := range map[string]string{"tcp": "", "udp": "udp://"} {
					flags := []string{"--forward", scheme + "127.0.0.1:2000=" + p.backends[0] + "," + p.backends[1],
						"--trust", "127.0.0.1", "--transparent"}
					script := func(action string) {
						text, code := lab.Run(t, lab.Command{Name: "../scripts/routes.sh", Args: append([]string{action}, p.backends[:]...),
							Env: []string{"PROTO=" + protocol}})
						if code != 0 {
							t.Errorf("%s of %s: exit code %d: %s", action, protocol, code, text)
						}
					}
					before := policy(t)
					routes(t, "apply", flags)
					want := sortedRules(t)
					routes(t, "remove", flags)
					script("apply")
					if got := sortedRules(t); !slices.Equal(got, want) {
						t.Errorf("%s: the script adds\n%s\nand unproxy\n%s", protocol, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
					script("check")
					script("remove")
					if after := policy(t); after != before {
						t.Errorf("%s: the rules were\n%sand are\n%s", protocol, before, after)
					}
				}
			})
		})
	}
}

// sortedRules lists the rules of both families.
func sortedRules(t *testing.T) []string {
	t.Helper()
	all := strings.Split(netns.IP(t, "rule")+netns.IP(t, "-6 rule"), "\n")
	slices.Sort(all)
	return all
}

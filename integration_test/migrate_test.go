package integration_test

import (
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The script that "migrate go-mmproxy" prints checks the configuration, sets up the
// return path, and removes the rules that go-mmproxy's README asks for. The rule of
// another program, whose table is not local, stays.
func TestMigrateGoMmproxy(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "ip")
		lab.Shell(t, `
ip rule add from 127.0.0.1/8 iif lo table 123
ip route add local 0.0.0.0/0 dev lo table 123
ip -6 rule add from ::1/128 iif lo table 123
ip -6 route add local ::/0 dev lo table 123
ip rule add fwmark 0x1/0x1 lookup 123 # for TPROXY
ip rule add from 192.0.2.0/24 lookup 124
ip route add unreachable default table 124`)
		list := lab.WriteFile(t, "subnets.txt", "10.0.0.0/8 # the load balancers\n\n")
		script, code := lab.RunGateway(t, "migrate", "go-mmproxy", "--",
			"-l", "0.0.0.0:2222", "-4", "127.0.0.1:22", "-6", "[::1]:22", "-allowed-subnets", list)
		if code != 0 {
			t.Fatal(script)
		}
		lab.Shell(t, "unproxy() { case $1 in check|routes) "+lab.Binary(t)+" \"$@\";; esac; }\n"+script)
		left := netns.IP(t, "rule") + netns.IP(t, "-6 rule")
		if strings.Contains(left, "lookup 123") || !strings.Contains(left, "lookup 124") {
			t.Errorf("after the script:\n%s", left)
		}
		if got := strings.Count(left, "lookup 7700"); got < 2 {
			t.Errorf("%d rules of the return path after the script:\n%s", got, left)
		}
		again, _ := lab.RunGateway(t, "migrate", "go-mmproxy", "--", "-l", ":2222", "-4", "127.0.0.1:22")
		if !strings.Contains(again, "This host has none.") {
			t.Errorf("afterwards, the script still removes something:\n%s", again)
		}
	})
}

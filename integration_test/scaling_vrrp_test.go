package integration_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Two gateways share an address by VRRP. keepalived asks "unproxy healthcheck", so the address moves when the
// gateway of its holder ends:
//
//	peer 10.9.0.254 ──header──▶ 10.9.0.100:2000 at gateway 5, then at 6 ──▶ 10.9.0.254:3000
func TestVRRPPair(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "keepalived")
		switched(t)
		tellPeers(t, "10.9.0.254:3000")
		gateways := map[string]*lab.Gateway{}
		for number, priority := range map[int]int{5: 110, 6: 100} {
			h := plugged(t, number)
			gateways[fmt.Sprintf("10.9.0.%d", number)] = lab.StartGatewayOn(t, h, "--forward", ":2000=10.9.0.254:3000",
				"--trust", "10.9.0.254", "--health", "127.0.0.1:9181")
			keepalived(t, h, priority)
		}
		holder := func(want string) {
			t.Helper()
			await.Until(t, "the address is at "+want, func() bool { return throughVRRP() == want })
		}
		holder("10.9.0.5")
		gateways["10.9.0.5"].Signal(syscall.SIGKILL)
		holder("10.9.0.6")
	})
}

// throughVRRP returns the gateway that a connection to the shared address passes.
func throughVRRP() string {
	c, err := net.DialTimeout("tcp", "10.9.0.100:2000", time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	c.Write(lab.V2(client4, dest4))
	through := make([]byte, len("10.9.0.5\n"))
	io.ReadFull(c, through)
	return strings.TrimSpace(string(through))
}

// keepalived starts keepalived on a host. A healthcheck that fails takes the shared address from it.
func keepalived(t *testing.T, h *lab.Host, priority int) {
	t.Helper()
	path := lab.WriteFile(t, "keepalived.conf", fmt.Sprintf(`global_defs {
    script_user root
    vrrp_version 3
    enable_script_security
}
vrrp_script unproxy {
    script "%s healthcheck --health 127.0.0.1:9181"
    interval 1
    fall 1
    rise 1
}
vrrp_instance service {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority %d
    advert_int 0.2
    virtual_ipaddress { 10.9.0.100/24 }
    track_script { unproxy }
}
`, lab.Binary(t), priority))
	lab.Start(t, h.On(lab.Command{Name: "/usr/sbin/keepalived", Args: []string{"--dont-fork", "--log-console", "--vrrp",
		"--use-file", path, "--pid", path + ".pid", "--vrrp_pid", path + ".vrrp"}}))
}

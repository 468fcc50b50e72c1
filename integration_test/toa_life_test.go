package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// An upgrade keeps the clients of accepted connections, changes the lists, and goes on
// counting. After detach they show the gateway, and nothing is left.
func TestTOAUpgradeAndDetach(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		r.attach(t)
		s := r.listen(t, "tcp", ":7000", nil)
		other := r.listen(t, "tcp", ":7001", nil)
		conn, _ := r.must(t, call(toaClient4))
		live := s.want(t, toaClient4)
		promised := r.counters(t)["promised"]

		output := r.attachServer(t, "--from", toaGateway4, "--port", "7001")
		if !strings.Contains(output, "updated ") {
			t.Errorf("the second attach says %q", output)
		}
		unproxy(t, "toa", "attach", "--gateway", "--cgroup", r.gateway.Path)
		if got := peerOf(t, live.conn); got != toaClient4 {
			t.Errorf("after the upgrade getpeername(2) says %s", got)
		}
		echoed(t, conn, live.line)
		if _, _, err := r.dial(t, call(toaClient4)); err != errUnpromised {
			t.Errorf("the port that is no longer listed: %v", err)
		}
		other = r.restart(t, other, output)
		c := call(toaClient4)
		c.to = toaServer4 + ":7001"
		r.must(t, c)
		other.want(t, toaClient4)
		of := toaStatusOf(t, r.server.Path).Attachments[0].Server
		if !slices.Equal(of.From, []string{toaGateway4 + "/32"}) || !slices.Equal(of.Ports, []int{7001}) ||
			of.Counters["promised"] <= promised {
			t.Errorf("after the upgrade: %+v", of)
		}

		for _, args := range [][]string{{"--cgroup", r.server.Path}, {"--gateway", "--cgroup", r.gateway.Path}} {
			for _, want := range []string{"detached from", "nothing is attached to"} {
				output := unproxy(t, append([]string{"toa", "detach"}, args...)...)
				if !strings.HasPrefix(output, want) {
					t.Errorf("detach %q says %q, want %q", args, output, want)
				}
			}
		}
		if got := peerOf(t, live.conn); !strings.HasPrefix(got, toaGateway4+":") {
			t.Errorf("after detach getpeername(2) says %s, want the gateway", got)
		}
		for _, path := range []string{r.server.Path, r.gateway.Path} {
			if s := toaStatusOf(t, path); len(s.Attachments) != 0 {
				t.Errorf("left: %+v", s)
			}
		}
	})
}

// foreign attaches a program of someone else, which does nothing.
func foreign(t *testing.T, path string, flags uint32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "of_others", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupSockOps, Flags: flags,
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

const overridable, multi = 1, 2 // BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI

// Programs of others go on running, or are named as the reason for which ours cannot be
// attached; then nothing of ours is left.
func TestTOAForeignPrograms(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		multiple, exclusive := r.server, cgroup.Processes(t)
		foreign(t, multiple.Path, multi)
		r.attach(t)
		s := r.listen(t, "tcp", ":7000", nil)
		r.must(t, call(toaClient4))
		s.want(t, toaClient4)
		others := toaStatusOf(t, multiple.Path).Attachments[0].Others
		if len(others) != 1 || others[0].Name != "of_others" || others[0].Hook != "CGroupSockOps" {
			t.Errorf("status has the others as %+v", others)
		}
		for _, flags := range []uint32{0, overridable} {
			path := filepath.Join(exclusive, fmt.Sprint(flags))
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			foreign(t, path, flags)
			for _, command := range [][]string{{"attach", "--from", toaGateway4, "--port", "7000"}, {"check"}} {
				args := append(append([]string{"toa"}, command...), "--cgroup", path)
				output, code := lab.Run(t, lab.Command{Name: lab.Binary(t), Args: args})
				want := map[string]int{"attach": 1, "check": 3}[command[0]]
				if code != want || !strings.Contains(output, `"of_others"`) || !strings.Contains(output, path) {
					t.Errorf("%q: exit code %d, want %d:\n%s", args, code, want, output)
				}
			}
			if s := toaStatusOf(t, path); len(s.Attachments) != 0 {
				t.Errorf("left after a failure: %+v", s)
			}
		}
	})
}

// A server in a container: its own cgroup, below the one that is attached, and its own
// network, mount and cgroup namespaces. It has been listening since before.
func TestTOAContainer(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "redis-server")
		r := newTOARig(t)
		above := cgroup.Processes(t)
		inside := filepath.Join(above, "container")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cgroup.Remove(t, inside) })
		p := lab.Start(t, r.host.On(lab.Command{Name: "sh", Args: []string{"-c", "echo $$ >" + inside + "/cgroup.procs && " +
			"exec unshare --cgroup --mount --uts redis-server --port 7000 --bind " + toaServer4 + " --save '' --protected-mode no"}}))
		p.WaitLine(t, "Ready to accept connections")
		unproxy(t, "toa", "attach", "--gateway", "--cgroup", r.gateway.Path)
		// The control: without the server's programs nothing is promised.
		if _, _, err := r.dial(t, call(toaClient4)); err != errUnpromised {
			t.Errorf("without programs: %v", err)
		}
		output := unproxy(t, "toa", "attach", "--cgroup", above, "--from", toaGateway4, "--port", "7000")
		of := toaStatusOf(t, above).Attachments[0].Server
		if of.Covered != 1 && !cgroup.MarksListeners(t) {
			t.Skipf("this kernel cannot mark listeners that exist already: %s", output)
		}
		if of.Covered != 1 {
			t.Errorf("the listener is not covered: %s", output)
		}
		c := call(toaClient4)
		c.line = "CLIENT INFO\r\n"
		conn, _ := r.must(t, c)
		b := make([]byte, 1000)
		n, err := conn.Read(b)
		if !strings.Contains(string(b[:n]), " addr="+toaClient4+" ") {
			t.Errorf("Redis says %q, %v; want addr=%s", b[:n], err, toaClient4)
		}
		// Detached, the listener has no mark either: a later attach has to set it again.
		unproxy(t, "toa", "detach", "--cgroup", above)
		if _, _, err := r.dial(t, call(toaClient4)); err != errUnpromised {
			t.Errorf("detached: %v", err)
		}
	})
}

// A router between gateway and backend rewrites both addresses: the option survives, and
// the router's address is the one to list.
func TestTOABehindNAT(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "nft")
		r := newTOARig(t)
		router := lab.NewHost(t, "rt", "10.57.0.2/24")
		netns.IP(t, "address add 10.57.0.1/24 dev rt")
		router.Tunnel(t, "inner", r.host, "outer")
		router.IP(t, "address add 10.58.0.1/24 dev inner")
		r.host.IP(t, "address add 10.58.0.2/24 dev outer")
		router.Sysctl(t, "net.ipv4.ip_forward", "1")
		router.Output(t, "nft", "add table ip nat; "+
			"add chain ip nat pre { type nat hook prerouting priority -100; }; "+
			"add chain ip nat post { type nat hook postrouting priority 100; }; "+
			"add rule ip nat pre tcp dport 2222 dnat to 10.58.0.2:7000; add rule ip nat post oif inner masquerade")
		r.attach(t, "--from", "10.57.0.1", "--port", "7000")
		s := r.listen(t, "tcp", ":7000", nil)
		c := toaCall{from: "10.57.0.1", to: "10.57.0.2:2222", client: toaClient4}
		if _, _, err := r.dial(t, c); err != errUnpromised {
			t.Errorf("with the gateway's own address listed: %v", err)
		}
		r.attachServer(t, "--from", "10.58.0.1", "--port", "7000")
		for _, client := range []string{toaClient4, toaClient6} {
			c.client = client
			r.must(t, c)
			s.want(t, client)
		}
	})
}

// Two gateways, of which one is taken from the list while the other goes on.
func TestTOAUnlistsOneOfTwo(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		r := newTOARig(t)
		second := call("198.51.100.7:7")
		second.from = toaStranger4
		r.attach(t, "--from", toaGateway4, "--from", toaStranger4, "--port", "7000")
		s := r.listen(t, "tcp", ":7000", nil)
		for _, c := range []toaCall{call(toaClient4), second} {
			r.must(t, c)
			s.want(t, c.client)
		}
		r.attachServer(t, "--from", toaGateway4, "--port", "7000")
		if _, _, err := r.dial(t, second); err != errUnpromised {
			t.Errorf("the gateway that is no longer listed: %v", err)
		}
		r.must(t, call(toaClient4))
		s.want(t, toaClient4)
	})
}

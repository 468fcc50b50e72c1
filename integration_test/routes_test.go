package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// published redirects a port of 127.0.0.1 to a container by DNAT, as kube-proxy and
// Docker without its proxy do.
//
//	127.0.0.1:8080 ──DNAT──▶ 172.17.0.2:80
func published(t *testing.T) {
	t.Helper()
	lab.NginxOn(t, bridged(t), whoAmI([2]string{"172.17.0.2:80", "[fd17::2]:80"}))
	netns.Sysctl(t, "net.ipv4.conf.docker0.route_localnet", "1")
	path := lab.WriteFile(t, "dnat.nft", `
		table ip published {
			chain output { type nat hook output priority -100; ip daddr 127.0.0.1 tcp dport 8080 dnat to 172.17.0.2:80; }
			chain postrouting { type nat hook postrouting priority 100; ip saddr 127.0.0.1 oifname docker0 masquerade; }
		}`)
	lab.Output(t, "nft", "-f", path)
}

// reachesPublished reports whether the published port answers.
func reachesPublished(t *testing.T) bool {
	t.Helper()
	text, code := lab.RunGateway(t, "probe", "--to", "127.0.0.1:8080", "--no-header", "--send", whoAsk, "--timeout", "1s")
	return code == 0 && strings.Contains(text, "200 OK")
}

// A port published on 127.0.0.1 works beside transparent backends on 127.0.0.1. The
// control is the well-known broad rule, which breaks it.
func TestRoutesLeavePublishedPorts(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx", "nft")
		p := places[0]
		outsider(t)
		p.start(t)
		published(t)
		g := lab.StartGateway(t, p.flags()...)
		await.Until(t, "the published port answers", func() bool { return reachesPublished(t) })
		routes(t, "apply", p.flags())
		wantSeen(t, g)
		if !reachesPublished(t) {
			t.Error("with the routes the published port does not answer")
		}
		netns.IP(t, "rule add from 127.0.0.1/8 iif lo lookup 7700 pref 7000")
		if reachesPublished(t) {
			t.Error("the published port answers in spite of the broad rule: this test shows nothing")
		}
	})
}

// Two gateways on one host with the same table and priority: neither removes the routes
// of the other.
func TestRoutesOfTwoInstances(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nginx", "nft")
		p := places[2] // with marks, which the gateways share
		outsider(t)
		p.start(t)
		other := []string{"--forward", "127.0.0.1:2001=10.0.0.1:26,127.0.0.1:26", "--trust", "127.0.0.1", "--transparent"}
		before := policy(t)
		routes(t, "apply", p.flags())
		alone := policy(t)
		routes(t, "apply", other)
		routes(t, "remove", other)
		if after := policy(t); after != alone {
			t.Errorf("the second gateway's routes were applied and removed; the rules before:\n%sand after:\n%s", alone, after)
		}
		routes(t, "apply", other)
		routes(t, "remove", p.flags())
		if _, code := lab.RunGateway(t, append([]string{"routes", "check"}, other...)...); code != 0 {
			t.Errorf("with the first gateway's routes removed, check of the second exits with %d", code)
		}
		routes(t, "remove", other)
		if after := policy(t); after != before {
			t.Errorf("all routes are removed; the rules before:\n%sand after:\n%s", before, after)
		}
	})
}

// After an apply was killed half-way, the next one completes it. The first one blocks
// when it prints, because its output is a socket with room for few lines.
func TestRoutesApplyKilled(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, "nft")
		outsider(t)
		flags := []string{"--forward", "127.0.0.1:2000=[::1]:25,10.0.0.1:25,[fd00::1]:25", "--trust", "127.0.0.1",
			"--transparent"}
		for port := range 20 {
			flags = append(flags, "--forward", fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", 3000+port, 4000+2*port))
		}
		before := policy(t)
		routes(t, "apply", flags)
		whole := policy(t)
		routes(t, "remove", flags)
		partial := 0
		for printed := range 6 {
			killHalfWay(t, printed, append([]string{"routes", "apply"}, flags...))
			if half := policy(t); half != before && half != whole {
				partial++
			}
			routes(t, "apply", flags)
			if after := policy(t); after != whole {
				t.Errorf("killed after %d lines and applied again, the rules are\n%swant\n%s", printed, after, whole)
			}
			routes(t, "remove", flags)
			if after := policy(t); after != before {
				t.Fatalf("after remove the rules are\n%swant\n%s", after, before)
			}
		}
		if partial == 0 {
			t.Error("no apply was killed half-way")
		}
	})
}

// killHalfWay runs the gateway's program, reads a number of lines, and kills it when it
// blocks on output.
func killHalfWay(t *testing.T, lines int, args []string) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := os.NewFile(uintptr(ends[0]), "reader"), os.NewFile(uintptr(ends[1]), "writer")
	defer reader.Close()
	if err := unix.SetsockoptInt(ends[1], unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lab.Binary(t), args...)
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	for range lines {
		if _, err := reader.Read(make([]byte, 4096)); err != nil {
			t.Fatalf("read a line: %v", err)
		}
	}
	await.Until(t, "the program blocks on output", func() bool { return writes(t, cmd.Process.Pid) })
	cmd.Process.Kill()
	cmd.Wait()
}

// writes reports whether a thread of a process is in write(2).
func writes(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range threads {
		if text, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(text), fmt.Sprintf("%d ", unix.SYS_WRITE)) {
			return true
		}
	}
	return false
}

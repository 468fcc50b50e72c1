package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// documentedScript returns the first block of commands under a heading of a document
// in docs.
func documentedScript(t *testing.T, document, heading string) string {
	t.Helper()
	_, section, _ := strings.Cut(string(readFile(t, "../docs/"+document)), "# "+heading+"\n")
	_, block, _ := strings.Cut(section, "```sh\n")
	block, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatalf("docs/%s has no commands under %q", document, heading)
	}
	return block
}

// documentedCommands returns the ip(8) commands of such a block, without the word
// "ip".
func documentedCommands(t *testing.T, document, heading string) []string {
	t.Helper()
	var commands []string
	for _, line := range strings.Split(documentedScript(t, document, heading), "\n") {
		if command, ok := strings.CutPrefix(line, "ip "); ok {
			commands = append(commands, command)
		}
	}
	if len(commands) == 0 {
		t.Fatalf("docs/%s has no ip commands under %q", document, heading)
	}
	return commands
}

// The documented commands set up the return path on the same host, and those to remove
// it leave nothing behind:
//
//	peer ──header──▶ gateway 127.0.0.1:2000 ──▶ 127.0.0.1:22, [::1]:22
func TestDocumentedReturnPath(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		before := rules(t)
		for _, command := range documentedCommands(t, "transparent.md", "Backend on the same host") {
			netns.IP(t, command)
		}
		var backends []*lab.Process
		for _, address := range []string{"127.0.0.1:22", "[::1]:22"} {
			backends = append(backends, lab.Start(t, lab.Command{Name: lab.Binary(t),
				Args: []string{"probe", "--listen", address}}))
			lab.WaitListening(t, address)
		}
		wantClientsSeen(t, backends, "127.0.0.1:22,[::1]:22")
		for _, command := range documentedCommands(t, "transparent.md", "Removing it") {
			netns.IP(t, command)
			netns.IP(t, "-6 "+command)
		}
		if after := rules(t); after != before {
			t.Errorf("rules and routes before:\n%sand after:\n%s", before, after)
		}
	})
}

// The same with a backend in another network namespace, such as a container, whose
// default route leads through this host:
//
//	peer ──header──▶ gateway 127.0.0.1:2000 ── veth0 10.9.0.1 ══ veth1 10.9.0.2:25
//	                                                 fd09::1           [fd09::2]:25
func TestDocumentedReturnPathFromContainer(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		container := lab.Start(t, lab.Command{Name: "unshare", Args: []string{"--net", "sh", "-ec", `
			until ip link set veth1 up 2>/dev/null; do :; done
			ip link set lo up
			ip address add 10.9.0.2/24 dev veth1
			ip -6 address add fd09::2/64 dev veth1 nodad
			ip route add default via 10.9.0.1
			ip -6 route add default via fd09::1
			exec ` + lab.Binary(t) + ` probe --listen 10.9.0.2:25`}})
		await.Until(t, "the container has its own network namespace", func() bool {
			own, _ := os.Readlink("/proc/self/ns/net")
			other, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", container.PID()))
			return other != "" && other != own
		})
		netns.IP(t, "link add veth0 type veth peer name veth1")
		netns.IP(t, "address add 10.9.0.1/24 dev veth0")
		netns.IP(t, "-6 address add fd09::1/64 dev veth0 nodad")
		netns.IP(t, "link set veth0 up")
		netns.IP(t, fmt.Sprintf("link set veth1 netns %d", container.PID()))
		for _, command := range documentedCommands(t, "transparent.md", "Backend in a container or on a neighbouring host") {
			netns.IP(t, command)
		}
		container.WaitLine(t, "listening on 10.9.0.2:25")
		second := lab.Start(t, lab.Command{Name: "nsenter", Args: []string{
			fmt.Sprintf("--net=/proc/%d/ns/net", container.PID()), lab.Binary(t), "probe", "--listen", "[fd09::2]:25"}})
		second.WaitLine(t, "listening on [fd09::2]:25")
		wantClientsSeen(t, []*lab.Process{container, second}, "10.9.0.2:25,[fd09::2]:25")
	})
}

// wantClientsSeen starts a transparent gateway in front of two backends, one of each
// family, and checks that each sees a client of its family.
func wantClientsSeen(t *testing.T, backends []*lab.Process, addresses string) {
	t.Helper()
	g := lab.StartGateway(t, "--forward", "127.0.0.1:2000="+addresses, "--trust", "127.0.0.1", "--transparent")
	for i, header := range [][]byte{lab.V2(client4, dest4), lab.V2(client6, dest6)} {
		client := []string{client4.String(), client6.String()}[i]
		conn := lab.Send(t, "127.0.0.1:2000", header, []byte("there and back"))
		wantRead(t, conn, "there and back")
		conn.Close()
		backends[i].WaitLine(t, "connection from "+client)
		g.NextConnection(t).Expect(t, "outcome", "ok", "client", client, "transparent", "true")
	}
}

// rules returns all rules and routes.
func rules(t *testing.T) string {
	t.Helper()
	return netns.IP(t, "rule") + netns.IP(t, "-6 rule") +
		netns.IP(t, "route show table all") + netns.IP(t, "-6 route show table all")
}

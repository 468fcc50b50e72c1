package integration_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// on runs a program on the backend's host if host is true, else on the gateway's, and
// returns its output.
func (r *toaRig) on(t *testing.T, host bool, words ...string) string {
	t.Helper()
	if host {
		return r.host.Output(t, words...)
	}
	return lab.Output(t, words...)
}

// drop installs rules at a hook, on the backend's host if host is true, else on the
// gateway's.
func (r *toaRig) drop(t *testing.T, host bool, hook, rules string) {
	t.Helper()
	script := fmt.Sprintf("add table inet loss_%[1]s; add chain inet loss_%[1]s c { type filter hook %[1]s priority 0; }; "+
		"add set inet loss_%[1]s once { type inet_service; flags dynamic; size 65535; }; ", hook)
	for _, rule := range strings.Split(rules, "\n") {
		script += fmt.Sprintf("add rule inet loss_%s c %s; ", hook, rule)
	}
	r.on(t, host, "nft", script)
}

// many makes connections with different clients at a time, and checks that the server
// sees each of them rightly: the line that a connection sends names its client.
func (r *toaRig) many(t *testing.T, s *toaServer, n int) {
	t.Helper()
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			c := call(fmt.Sprintf("203.0.113.%d:%d", i%250+1, 1000+i))
			if i%2 == 1 {
				c.client = fmt.Sprintf("[2001:db8::%x]:%d", i+1, 1000+i)
			}
			c.line = c.client + "\n"
			for _, _, err := r.dial(t, c); err != nil; _, _, err = r.dial(t, c) {
				if err == errUnpromised {
					t.Errorf("%s: not promised", c.client)
					return
				}
			}
		})
	}
	wait.Wait()
	for range n {
		c := s.next(t)
		if got := c.peer.String(); got+"\n" != c.line {
			t.Errorf("the server sees %s for %q", got, c.line)
		}
	}
}

// Each row loses packets on the way. The rules count, so that a row that loses nothing
// fails.
func TestTOALoss(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cookies string
		host    bool
		hook    string
		rules   string
		n       int
	}{
		// The SYN-ACK that is sent again has no SYN at hand.
		{"first SYN-ACK", "1", true, "output", "tcp flags & (syn|ack) == (syn|ack) tcp dport @once accept\n" +
			"tcp flags & (syn|ack) == (syn|ack) add @once { tcp dport } counter drop", 10},
		{"first SYN", "1", false, "output", "tcp flags & (syn|ack) == syn tcp sport @once accept\n" +
			"tcp flags & (syn|ack) == syn add @once { tcp sport } counter drop", 10},
		{"every ACK without data", "1", false, "output", "tcp dport 7000 tcp flags & (syn|fin|rst|psh) == 0 counter drop", 10},
		{"every ACK without data, SYN cookies", "2", false, "output",
			"tcp dport 7000 tcp flags & (syn|fin|rst|psh) == 0 counter drop", 10},
		{"first data segment", "1", false, "output", "tcp flags psh tcp sport @once accept\n" +
			"tcp flags psh add @once { tcp sport } counter drop", 10},
		{"a fifth of all to the server", "1", true, "input", "numgen random mod 100 < 20 counter drop", 40},
		{"a fifth of all from the server", "1", true, "output", "numgen random mod 100 < 20 counter drop", 40},
		{"a fifth of all from the server, SYN cookies", "2", true, "output", "numgen random mod 100 < 20 counter drop", 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			netns.RunAsRoot(t, func(t *testing.T) {
				lab.Require(t, "nft")
				r := newTOARig(t)
				r.host.Sysctl(t, "net.ipv4.tcp_syncookies", tt.cookies)
				r.attach(t)
				s := r.listen(t, "tcp", fmt.Sprintf(":%d", toaPort), nil)
				r.drop(t, tt.host, tt.hook, tt.rules)
				r.many(t, s, tt.n)
				ruleset := r.on(t, tt.host, "nft", "list", "chain", "inet", "loss_"+tt.hook, "c")
				if !regexp.MustCompile(`counter packets [1-9]`).MatchString(ruleset) {
					t.Errorf("nothing was lost:\n%s", ruleset)
				}
				if got := r.counters(t)["unknown"]; got != 0 {
					t.Errorf("%d connections were accepted without a client", got)
				}
			})
		})
	}
}

package netns_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"unproxy/integration_test/netns"
)

func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// lo alone, up:  127.0.0.1 ::1 + 203.0.113.9 2001:db8::9
func TestRun(t *testing.T) {
	outside := namespace(t)
	if v, ok := os.LookupEnv("NETNS_TEST_OUTSIDE"); ok {
		outside = v
	}
	t.Setenv("NETNS_TEST_OUTSIDE", outside)
	netns.Run(t, func(t *testing.T) {
		if namespace(t) == outside {
			t.Errorf("still in network namespace %s", outside)
		}
		if os.Geteuid() != 0 {
			t.Errorf("effective user %d in the namespace, want root", os.Geteuid())
		}
		netns.IP(t, "address add 203.0.113.9/32 dev lo")
		netns.IP(t, "-6 address add 2001:db8::9/128 dev lo nodad")
		for _, address := range []string{"127.0.0.1:7", "[::1]:7", "203.0.113.9:7", "[2001:db8::9]:7"} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Errorf("listen on a fixed low port of a made-up address: %v", err)
				continue
			}
			l.Close()
		}
		netns.Sysctl(t, "net.ipv4.ip_local_port_range", "20000 20003")
		got, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil || strings.Join(strings.Fields(string(got)), " ") != "20000 20003" {
			t.Errorf("port range %q, %v", got, err)
		}
	})
}

// Names with slashes, spaces and regular expression syntax must select the same subtest.
func TestRunInSubtest(t *testing.T) {
	for _, name := range []string{"plain", "a.b (c)|d", "with/slash"} {
		t.Run(name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				t.Run("inner", func(t *testing.T) {})
			})
		})
	}
}

// A failure inside must be a failure outside.
func TestRunRelaysFailure(t *testing.T) {
	if os.Getenv("NETNS_TEST_FAIL") != "" {
		netns.Run(t, func(t *testing.T) { t.Error("intended failure") })
		return
	}
	for _, want := range []string{"--- FAIL: TestRunRelaysFailure", "intended failure"} {
		output := failing(t)
		if strings.Contains(output, "no network namespace") {
			t.Skip(output)
		}
		if !strings.Contains(output, want) {
			t.Errorf("the output of a failing test lacks %q:\n%s", want, output)
		}
	}
}

// failing runs TestRunRelaysFailure in a process where its body fails.
func failing(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestRunRelaysFailure$", "-test.v")
	cmd.Env = append(os.Environ(), "NETNS_TEST_FAIL=1")
	output, err := cmd.CombinedOutput()
	if err == nil && !strings.Contains(string(output), "no network namespace") {
		t.Errorf("the process of a failing test succeeded:\n%s", output)
	}
	return string(output)
}

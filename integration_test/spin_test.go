package integration_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// With --spin a loop does not sleep between the messages of a ping-pong, but after the
// last one:
//
//	conn ──header, 1000 × "ball" in turn──▶ gateway :2000, --spin 10ms ──▶ echo :3000
func TestSpin(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Echo(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--loops", "1", "--spin", "10ms")
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("first"))
		wantRead(t, conn, "first")
		const exchanges = 1000
		b := make([]byte, 4)
		// On a busy machine the next message may take longer than the loop spins.
		await.Until(t, fmt.Sprintf("the gateway sleeps less than %d times in as many exchanges", exchanges), func() bool {
			before := sleeps(t, g.PID())
			for range exchanges {
				write(t, conn, []byte("ball"))
				if _, err := io.ReadFull(conn, b); err != nil {
					t.Fatal(err)
				}
			}
			// The gateway's other threads sleep too, but not once per message.
			n := sleeps(t, g.PID()) - before
			t.Logf("slept %d times in %d exchanges", n, exchanges)
			return n <= exchanges
		})
		await.Until(t, "all threads sleep", func() bool { return asleep(t, g.PID()) })
	})
}

// sleeps returns how many times the threads of a process have slept
// (voluntary_ctxt_switches in proc_pid_status(5)).
func sleeps(t *testing.T, pid int) (total int) {
	t.Helper()
	for _, count := range threads(t, pid, `voluntary_ctxt_switches:\s+(\d+)`) {
		n, _ := strconv.Atoi(count)
		total += n
	}
	return total
}

// asleep reports whether all threads of a process sleep.
func asleep(t *testing.T, pid int) bool {
	t.Helper()
	return !slices.ContainsFunc(threads(t, pid, `State:\s+(\S)`), func(state string) bool { return state != "S" })
}

// threads returns the match of the first group of pattern in the status of each thread
// of a process.
func threads(t *testing.T, pid int, pattern string) (all []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	line := regexp.MustCompile("(?m)^" + pattern)
	for _, file := range files {
		status, _ := os.ReadFile(file)
		if m := line.FindSubmatch(status); m != nil { // nil if the thread has ended
			all = append(all, string(m[1]))
		}
	}
	return all
}

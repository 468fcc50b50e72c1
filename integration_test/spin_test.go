package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// spin is the time to spin in the test.
const spin = 10 * time.Millisecond

// With --spin a loop does not sleep between the messages of a ping-pong that arrive within
// that time, but after the last one. Without it, the control, it sleeps:
//
//	conn ──header, "ball" again and again──▶ gateway :2000, --spin 10ms ──▶ echo :3000
func TestSpinningLoopDoesNotSleepBetweenMessages(t *testing.T) {
	for _, row := range []struct {
		flag string
		few  bool // sleeps
	}{{spin.String(), true}, {"off", false}} {
		t.Run(row.flag, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				lab.Echo(t, "127.0.0.1:3000")
				g := plainGateway(t, "--loops", "1", "--spin", row.flag)
				conn := lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4))
				slept, exchanges := sleepsOfTheLoop(t, g.PID(), func() {
					write(t, conn, []byte("ball"))
					wantRead(t, conn, "ball")
				})
				t.Logf("slept %d times in %d exchanges", slept, exchanges)
				if exchanges == 0 {
					t.Skip("the machine is too busy: no two exchanges in less than the time to spin")
				}
				if few := slept <= exchanges/10; few != row.few { // the runtime, too, may have the loop wait
					t.Errorf("slept %d times in %d exchanges", slept, exchanges)
				}
				await.Until(t, "all threads sleep", func() bool { return asleep(t, g.PID()) })
			})
		})
	}
}

// sleepsOfTheLoop returns how many times a gateway's only loop sleeps in up to 1000
// exchanges. Only exchanges that take less than the time to spin count, together with the
// one before. On a busy machine these are few.
func sleepsOfTheLoop(t *testing.T, pid int, exchange func()) (slept, exchanges int) {
	t.Helper()
	loop := busiest(t, pid, func() {
		for range 100 {
			exchange()
		}
	})
	previous, before := time.Now(), sleeps(t, loop)
	for end := previous.Add(await.Patience / 2); exchanges < 1000 && time.Now().Before(end); {
		start := time.Now()
		exchange()
		now := sleeps(t, loop)
		if time.Since(previous) < spin {
			exchanges++
			slept += now - before
		}
		previous, before = start, now
	}
	return slept, exchanges
}

// busiest returns the directory in /proc of the thread of a process that runs the longest
// during work.
func busiest(t *testing.T, pid int, work func()) (thread string) {
	t.Helper()
	before := runTimes(t, pid)
	work()
	most := -1
	for dir, ran := range runTimes(t, pid) {
		if ran -= before[dir]; ran > most {
			thread, most = dir, ran
		}
	}
	return thread
}

// runTimes returns the run time of each thread of a process in ns (schedstat in the
// kernel's Documentation/scheduler/sched-stats.rst).
func runTimes(t *testing.T, pid int) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, dir := range threads(t, pid) {
		all[dir] = firstNumber(t, filepath.Join(dir, "schedstat"), `^(\d+)`)
	}
	return all
}

// sleeps returns how many times a thread has slept (voluntary_ctxt_switches in
// proc_pid_status(5)).
func sleeps(t *testing.T, thread string) int {
	t.Helper()
	return firstNumber(t, filepath.Join(thread, "status"), `(?m)^voluntary_ctxt_switches:\s+(\d+)`)
}

// firstNumber returns the number that the first group of pattern matches in a file.
func firstNumber(t *testing.T, path, pattern string) int {
	t.Helper()
	return firstMatch(t, path, string(readFile(t, path)), pattern)
}

// firstMatch returns the number that a pattern's group matches in a text, which has a name.
func firstMatch(t *testing.T, name, text, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s does not match %s", name, pattern)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// asleep reports whether all threads of a process sleep.
func asleep(t *testing.T, pid int) bool {
	t.Helper()
	running := regexp.MustCompile(`(?m)^State:\s+[^S]`)
	return !slices.ContainsFunc(threads(t, pid), func(dir string) bool {
		status, _ := os.ReadFile(filepath.Join(dir, "status")) // fails if the thread has ended
		return running.Match(status)
	})
}

// threads returns the directories in /proc of the threads of a process.
func threads(t *testing.T, pid int) []string {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	return all
}

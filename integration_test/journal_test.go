package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// Lines have their priority if stderr is what JOURNAL_STREAM names, and only then: those
// of the log in both formats, and those of a start that fails.
//
//	nonsense ──▶ gateway :2000 ──stderr──▶ file
func TestJournalPriorities(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, format := range []string{"json", "console"} {
			for _, journal := range []bool{true, false} {
				path := lab.WriteFile(t, "stderr", "")
				var info unix.Stat_t
				if err := unix.Stat(path, &info); err != nil {
					t.Fatal(err)
				}
				if !journal {
					info.Ino++
				}
				stream := fmt.Sprintf("JOURNAL_STREAM=%d:%d", info.Dev, info.Ino)
				want := func(text, priority string) {
					t.Helper()
					for line := range strings.Lines(lab.WaitFile(t, path, text)) {
						has := strings.HasPrefix(line, priority)
						if strings.Contains(line, text) && (has != journal || !journal && line[0] == '<') {
							t.Errorf("%s, journal %v: %q, want %s", format, journal, line, priority)
						}
					}
				}
				run := func(args string) *lab.Process {
					return lab.Start(t, lab.Command{Name: "sh", Env: []string{stream},
						Args: []string{"-c", "exec " + lab.Binary(t) + " --trust 127.0.0.1 --log-format " + format + " " + args + " 2>>" + path}})
				}
				g := run("--forward 127.0.0.1:2000=127.0.0.1:3000")
				want("ready", "<6>")
				lab.Send(t, "127.0.0.1:2000", []byte("nonsense\r\n"))
				want("not_proxy", "<4>")
				g.Signal(unix.SIGTERM)
				if code := g.Wait(t); code != 0 {
					t.Errorf("exit code %d", code)
				}
				if code := run("--forward 127.0.0.1:2000=" + filepath.Base(path)).Wait(t); code != 2 {
					t.Errorf("exit code %d, want 2", code)
				}
				want("unproxy: error: ", "<3>")
				want("unproxy: hint: ", "<3>")
				if code := run("--forward 127.0.0.1:2000=127.0.0.1:3000 --header-timeout 1s check").Wait(t); code != 0 {
					t.Errorf("exit code %d", code)
				}
				want("unproxy: warning: ", "<4>")
			}
		}
	})
}

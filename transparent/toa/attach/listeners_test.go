package attach

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/netns"
)

// A namespace whose only process ends while it is looked at can still be entered.
func TestProcessEndsWhileItsNamespaceIsListed(t *testing.T) {
	netns.RunAsRoot(t, func(t *testing.T) {
		sleep := exec.Command("sleep", "60")
		sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		runtime.LockOSThread() // Pdeathsig follows the thread
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		var own, its unix.Stat_t
		for path, id := range map[string]*unix.Stat_t{
			"/proc/self/ns/net": &own, "/proc/" + strconv.Itoa(sleep.Process.Pid) + "/ns/net": &its,
		} {
			if err := unix.Stat(path, id); err != nil {
				t.Fatal(err)
			}
		}
		visits := map[uint64]int{}
		err := eachNamespace(func(at *os.File) {
			var id unix.Stat_t
			if err := unix.Fstat(int(at.Fd()), &id); err != nil {
				t.Error(err)
			}
			visits[id.Ino]++
			if id.Ino != its.Ino {
				return
			}
			sleep.Process.Kill()
			sleep.Wait()
			if err := enter(at); err != nil {
				t.Errorf("enter the namespace after its process has ended: %v", err)
			}
		})
		if err != nil || visits[own.Ino] != 1 || visits[its.Ino] != 1 {
			t.Errorf("%v, visits %v; want one to %d and %d", err, visits, own.Ino, its.Ino)
		}
	})
}

// enter enters a namespace on a thread that ends.
func enter(at *os.File) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- unix.Setns(int(at.Fd()), unix.CLONE_NEWNET)
	}()
	return <-done
}

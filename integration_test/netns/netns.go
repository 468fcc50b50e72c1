// Package netns runs a test inside a network namespace of its own, where it may
// have every address, route and rule that it likes, and where fixed ports are
// free. It needs no root: the namespace comes with a user namespace in which
// the test is root. Root without user namespaces will do as well.
//
//	func TestOverIPv6(t *testing.T) {
//		netns.Run(t, func(t *testing.T) {
//			netns.IP(t, "address add 2001:db8::5/128 dev lo")
//			…
//		})
//	}
//
// Run starts the test binary again for the one test, in the new namespace, and
// makes the result its own. Processes that the body starts live in the
// namespace too. There is a mount namespace as well, so the body may mount what
// it needs; the user namespace maps no user but the test's own, to root.
//
// Where neither kind of namespace is to be had the test is skipped, with the
// reason. Everything else that goes wrong is a failure.
package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"unproxy/integration_test/race"
)

// marker is the environment variable that holds the name of the test for
// which this process was started.
const marker = "TEST_NETNS"

// margin is how much earlier than this process the other one runs out of time,
// so that what it has to say is passed on.
const margin = 5 * time.Second

// forbidden is the exit code of a process that was put in a namespace but may
// not do anything with it, as AppArmor has it on some distributions.
const forbidden = 97

// Run runs body in a new network namespace in which lo is up. It must be the
// first thing that a test function does, and body be all of it: what comes
// before is run twice.
func Run(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	run(t, kinds(), body)
}

// RunAsRoot is [Run] without a user namespace, for servers that change to users
// of their own. Without root the test is skipped.
func RunAsRoot(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has a network namespace and more than one user in it")
	}
	all := kinds()
	run(t, all[len(all)-1:], body)
}

func run(t *testing.T, kinds []kind, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(marker) == t.Name() {
		enter(t)
		body(t)
		return
	}
	var reasons []error
	for _, k := range kinds {
		output, err := again(t, k.attributes)
		if isForbidden(err) {
			reasons = append(reasons, fmt.Errorf("%s: %w", k.name, err))
			continue
		}
		relay(t, output, err)
		return
	}
	t.Skipf("no network namespace: %v", errors.Join(reasons...))
}

type kind struct {
	name       string
	attributes *syscall.SysProcAttr
}

// kinds are the ways to a namespace, the best first.
func kinds() []kind {
	const flags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	all := []kind{{"user and network namespace", &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}}}
	if os.Geteuid() == 0 {
		all = append(all, kind{"network namespace", &syscall.SysProcAttr{
			Cloneflags: flags,
			Pdeathsig:  syscall.SIGKILL,
		}})
	}
	return all
}

// again runs the test in another process of this program, which ends with what
// is left of the time of this one.
func again(t *testing.T, attributes *syscall.SysProcAttr) (output []byte, err error) {
	// The parent-death signal goes by the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-test.run="+pattern(t.Name()), "-test.v", "-test.count=1")
	if end, ok := t.Deadline(); ok {
		cmd.Args = append(cmd.Args, fmt.Sprintf("-test.timeout=%v", max(time.Until(end)-margin, time.Second)))
	}
	cmd.Env = append(os.Environ(), marker+"="+t.Name(), race.NoPause())
	cmd.SysProcAttr = attributes
	return cmd.CombinedOutput()
}

// pattern is the -test.run value that matches the test called name alone.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// isForbidden reports whether err says that this kind of namespace is not to
// be had: clone(2) fails with EPERM where it is switched off or the container
// denies it, ENOSPC where there may be no more, EINVAL and ENOSYS where it is
// not known; EACCES and EPERM also come from writing the id maps.
func isForbidden(err error) bool {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode() == forbidden
	}
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// relay makes the result of the other process t's own.
func relay(t *testing.T, output []byte, err error) {
	t.Helper()
	t.Logf("in its network namespace:\n%s", bytes.TrimSpace(output))
	switch {
	case err != nil:
		t.Fatalf("test in the network namespace: %v", err)
	case bytes.Contains(output, []byte("--- SKIP: "+t.Name()+" ")):
		t.Skip("skipped in the network namespace, see above")
	case !bytes.Contains(output, []byte("--- PASS: "+t.Name()+" ")):
		t.Fatal("the test did not run in the network namespace")
	}
}

// enter makes the namespace that this process was started in usable.
func enter(t *testing.T) {
	t.Helper()
	// Mounts of the body's must not show outside.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		give(t, "make mounts private", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatalf("find lo: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		give(t, "bring lo up", err)
	}
}

// give ends the process if the system forbids what it must do, else the test.
func give(t *testing.T, what string, err error) {
	t.Helper()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(forbidden)
	}
	t.Fatalf("%s: %v", what, err)
}

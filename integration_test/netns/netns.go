// Package netns runs a test in its own network namespace, where the test can set
// addresses, routes and rules, and where all ports are free. Root is not needed: the
// test is root in a user namespace. Root without user namespaces works too.
//
//	func TestOverIPv6(t *testing.T) {
//		netns.Run(t, func(t *testing.T) {
//			netns.IP(t, "address add 2001:db8::5/128 dev lo")
//			…
//		})
//	}
//
// Run starts the test binary again for that test, in the new namespace, and takes over
// the result. Processes that the body starts are in the namespace too. There is also a
// mount namespace, so the body can mount file systems. The user namespace maps only the
// test's own user, to root.
//
// Where no such namespace is allowed, the test is skipped with the reason. Any other
// error is a failure.
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

// marker is the environment variable with the name of the test that this process runs.
const marker = "TEST_NETNS"

// margin is how much earlier than this process the new one times out, so that its output
// is not lost.
const margin = 5 * time.Second

// forbidden is the exit code of a process that is in a namespace but has no rights in it,
// as with AppArmor on some distributions.
const forbidden = 97

// Run runs body in a new network namespace, in which lo is up. Code of the test function
// outside of body runs twice.
func Run(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	run(t, kinds(), body)
}

// RunAsRoot is [Run] without a user namespace, for servers that switch to another user.
// Without root the test is skipped.
func RunAsRoot(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can have a network namespace with several users")
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

// kinds returns the kinds of namespaces, in order of preference.
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

// again runs the test in another process of this program, within the remaining time.
func again(t *testing.T, attributes *syscall.SysProcAttr) (output []byte, err error) {
	// The kernel sends the parent-death signal when the thread that forked ends.
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

// pattern returns the value of -test.run that matches only the test with the name.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// isForbidden reports whether err means that this kind of namespace is unavailable.
// clone(2) fails with EPERM if it is disabled or the container denies it, ENOSPC if the
// limit is reached, EINVAL and ENOSYS if the kernel lacks it. Writing the id maps fails
// with EACCES or EPERM.
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

// relay takes over the result of the other process.
func relay(t *testing.T, output []byte, err error) {
	t.Helper()
	t.Logf("output in the network namespace:\n%s", bytes.TrimSpace(output))
	switch {
	case err != nil:
		t.Fatalf("the test in the network namespace: %v", err)
	case bytes.Contains(output, []byte("--- SKIP: "+t.Name()+" ")):
		t.Skip("skipped in the network namespace, see above")
	case !bytes.Contains(output, []byte("--- PASS: "+t.Name()+" ")):
		t.Fatal("the test did not run in the network namespace")
	}
}

// enter prepares the namespace of this process.
func enter(t *testing.T) {
	t.Helper()
	// Mounts of the body must not propagate outside.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		forbid(t, "make mounts private", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatalf("find lo: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		forbid(t, "bring lo up", err)
	}
}

// forbid ends the process if the error means that the system forbids the action, otherwise
// the test.
func forbid(t *testing.T, what string, err error) {
	t.Helper()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(forbidden)
	}
	t.Fatalf("%s: %v", what, err)
}

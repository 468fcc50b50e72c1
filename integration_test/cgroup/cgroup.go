// Package cgroup gives a test its own cgroups of version 2, for programs that the kernel
// attaches to cgroups. A socket belongs to the cgroup of the thread that makes it, so one
// test process can play the gateway in one cgroup and the server in another:
//
//	tree := cgroup.New(t)
//	server := tree.Child(t, "server")
//	server.Do(t, func() { listener, err = net.Listen("tcp", ":7000") })
//
// It needs root and a mounted cgroup2 file system; a test is skipped without them.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/transparent/toa/attach"
)

// Tree is a cgroup of the test, directly below the root of the hierarchy. The test's
// process is in it until the test ends.
type Tree struct {
	Path string
}

// Group is a cgroup in a [Tree]. Threads of the test's process can be in it, and
// processes that the test starts.
type Group struct {
	Path string
	tree *Tree
}

// New makes a tree, and removes it when the test ends. Call it once in a process, in the
// body of netns.RunAsRoot: the process moves into the tree.
func New(t testing.TB) *Tree {
	t.Helper()
	before, err := attach.Resolve(attach.Self)
	if err != nil {
		t.Skipf("no cgroup2: %v", err)
	}
	path := directory(t)
	t.Cleanup(func() {
		write(t, filepath.Join(before, "cgroup.procs"), os.Getpid())
		Remove(t, path)
	})
	write(t, filepath.Join(path, "cgroup.procs"), os.Getpid())
	return &Tree{path}
}

// Processes makes a cgroup for processes that the test starts, directly below the root of
// the hierarchy, and returns its path. It is removed when the test ends.
func Processes(t testing.TB) string {
	t.Helper()
	path := directory(t)
	t.Cleanup(func() { Remove(t, path) })
	return path
}

// directory makes a cgroup below the root of the hierarchy.
func directory(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make cgroups")
	}
	root, err := attach.Root()
	if err != nil {
		t.Skipf("no cgroup2: %v", err)
	}
	path, err := os.MkdirTemp(root, "unproxy-test-")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		t.Skipf("cgroups cannot be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Child makes a cgroup in the tree.
func (c *Tree) Child(t testing.TB, name string) *Group {
	t.Helper()
	g := &Group{filepath.Join(c.Path, name), c}
	if err := os.Mkdir(g.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Remove(t, g.Path) })
	// Only a threaded cgroup takes single threads.
	if err := os.WriteFile(filepath.Join(g.Path, "cgroup.type"), []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	return g
}

// Do runs f on a thread in the cgroup. Sockets that f makes belong to it.
func (g *Group) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	write(t, filepath.Join(g.Path, "cgroup.threads"), unix.Gettid())
	defer func() { write(t, filepath.Join(g.tree.Path, "cgroup.threads"), unix.Gettid()) }()
	f()
}

func write(t testing.TB, path string, number int) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strconv.Itoa(number)), 0); err != nil {
		t.Fatalf("move %d to %s: %v", number, filepath.Dir(path), err)
	}
}

// Remove removes a cgroup when the processes in it are gone.
func Remove(t testing.TB, path string) {
	t.Helper()
	await.Until(t, "the removal of "+path, func() bool {
		err := os.Remove(path)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// MarksListeners reports whether this kernel lets a BPF program mark a socket that listens
// already (bpf_setsockopt in an iterator, since Linux 6.12). Where it does not, servers are
// started again after their cgroup has got its programs.
func MarksListeners(t testing.TB) bool {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(attach.Kernel(), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("the version of Linux %s: %v", attach.Kernel(), err)
	}
	return major > 6 || major == 6 && minor >= 12
}

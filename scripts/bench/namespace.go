package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaced is the environment variable that marks the process in the namespace.
const namespaced = "UNPROXY_BENCH_NAMESPACE"

// again runs this program again, in a new network namespace.
func again() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaced+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	// The terminal signals both processes, and the inner one prints its results.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	runtime.LockOSThread() // the kernel sends the parent-death signal when the thread ends
	return cmd.Run()
}

// prepare sets up the namespace and raises the limit of descriptors for this process and its
// children. The gateways' ports are not used as local ports.
func prepare() (descriptors int, err error) {
	if err := ip("link set lo up"); err != nil {
		return 0, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 65535"), 0o644); err != nil {
		return 0, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	limit.Cur = min(limit.Max, mostDescriptors)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("setrlimit", err)
	}
	runtime.GOMAXPROCS(2) // the load waits in raw system calls, unknown to the runtime
	return int(limit.Cur), nil
}

// mostDescriptors limits the number of connections. More would show nothing new.
const mostDescriptors = 20_000

// route sets up the return path of the backend, as "unproxy routes print" describes it for
// a server on this host.
func route() error {
	if err := ip("route replace local default dev lo table 7700"); err != nil {
		return err
	}
	for _, protocol := range []string{"tcp", "udp"} {
		if err := ip(fmt.Sprintf("rule add from %v iif lo ipproto %s sport %d lookup 7700 pref 7700", backendAddress.Addr(),
			protocol, backendAddress.Port())); err != nil {
			return err
		}
	}
	return nil
}

func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w\n%s", args, err, out)
	}
	return nil
}

// limitBuffers gives the namespace's TCP sockets at most 32 KiB for each direction, so that
// thousands of slow readers do not use up the machine's memory. restore undoes it.
func limitBuffers() (restore func(), err error) {
	const small = "4096 16384 32768"
	before := map[string][]byte{}
	restore = func() {
		for name, value := range before {
			os.WriteFile(name, value, 0o644)
		}
	}
	for _, name := range []string{"/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem"} {
		value, err := os.ReadFile(name)
		if err == nil {
			before[name] = value
			err = os.WriteFile(name, []byte(small), 0o644)
		}
		if err != nil {
			restore()
			return nil, err
		}
	}
	return restore, nil
}

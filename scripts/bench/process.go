package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs for one measurement, and its descendants.
type process struct {
	cmd  *exec.Cmd
	log  string // the file with its output
	pids []int  // of the program and its descendants, found by look

	ended chan struct{} // closed when the program has ended
}

// start starts a program, waits until it listens, and pins it to cores. The calling
// thread must live until the process has ended: the kernel kills the process when the
// thread ends.
func start(command []string, on cores, log string, listens func() (bool, error)) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(len(on)))
	cmd.Stdout, cmd.Stderr = out, out
	// In a separate process group an interrupt from the terminal does not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		cmd.Wait()
	}()
	if err := p.await(on, listens); err != nil {
		p.stop()
		return nil, fmt.Errorf("%w: %s\n%s", err, strings.Join(command, " "), p.said())
	}
	return p, nil
}

// await waits until the program listens, for at least half a minute.
func (p *process) await(on cores, listens func() (bool, error)) error {
	for range 6000 {
		ready, err := listens()
		if err != nil {
			return err
		}
		if ready {
			return p.pin(on)
		}
		select {
		case <-p.ended:
			return errors.New("the program ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return errors.New("the program does not listen")
}

func (p *process) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// said returns the end of its output.
func (p *process) said() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-500):])
}

// look finds its descendants. It takes a few milliseconds, too long between a measurement
// and [process.runTime].
func (p *process) look() {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended
		}
		// The name in brackets can contain any characters.
		rest := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[pid], _ = strconv.Atoi(rest[1])
	}
	p.pids = []int{p.cmd.Process.Pid}
	for i := 0; i < len(p.pids); i++ {
		for pid, parent := range parents {
			if parent == p.pids[i] {
				p.pids = append(p.pids, pid)
			}
		}
	}
}

func (p *process) pin(on cores) error {
	p.look()
	for _, pid := range p.pids {
		if err := pin(pid, on); err != nil {
			return err
		}
	}
	return nil
}

// runTime returns the processor time of all its threads.
func (p *process) runTime() (total time.Duration, err error) {
	for _, pid := range p.pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // the thread has ended
			}
			n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", f, err)
			}
			total += time.Duration(n)
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("processor time of %d: %w", p.cmd.Process.Pid, os.ErrNotExist)
	}
	return total, nil
}

// size is the memory of a process, in bytes, and the number of its descriptors.
type size struct{ rss, anonymous, descriptors int }

func (p *process) size() (s size) {
	for _, pid := range p.pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		s.rss += kilobytes(string(text), "VmRSS:")
		s.anonymous += kilobytes(string(text), "RssAnon:")
		descriptors, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		s.descriptors += len(descriptors)
	}
	return s
}

// kilobytes returns the value of a line of /proc/PID/status in bytes.
func kilobytes(status, line string) int {
	_, rest, _ := strings.Cut(status, line)
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n << 10
}

// cores are the numbers of processor cores.
type cores []int

// gatewayCores has the core for the gateway.
func gatewayCores() cores { return cores{0} }

// loadCores has the core for load and backend.
func loadCores() cores { return cores{min(1, runtime.NumCPU()-1)} }

// sharedCores has both cores.
func sharedCores() cores { return slices.Compact(append(gatewayCores(), loadCores()...)) }

// pin pins a process to cores; pid 0 is this process.
func pin(pid int, on cores) error {
	var set unix.CPUSet
	for _, core := range on {
		set.Set(core)
	}
	name := strconv.Itoa(pid)
	if pid == 0 {
		name = "self"
	}
	tasks, err := filepath.Glob("/proc/" + name + "/task/*")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	return nil
}

// listening returns a function that reports whether a socket in this namespace has the port.
func listening(protocol string, port uint16) func() (bool, error) {
	state := " "
	if protocol == "tcp" {
		state = " 0A" // TCP_LISTEN
	}
	return func() (bool, error) {
		for table, anybody := range map[string]string{protocol: "00000000",
			protocol + "6": "00000000000000000000000000000000"} {
			text, err := os.ReadFile("/proc/self/net/" + table)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return false, err
			}
			if bytes.Contains(text, fmt.Appendf(nil, ":%04X %s:0000%s", port, anybody, state)) {
				return true, nil
			}
		}
		return false, nil
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs for one measurement, with what it starts itself.
type process struct {
	cmd  *exec.Cmd
	log  string // the file that it writes to
	pids []int  // of it and what it has started, as look found them

	ended chan struct{} // closed when it has
}

// start starts a program that listens, waits until it does, and puts it on a core.
// Its thread must stay the caller's until the process has ended: the kernel kills
// the process when the thread ends.
func start(command []string, core int, log string, listens func() (bool, error)) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: an interrupt from the terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		cmd.Wait()
	}()
	if err := p.await(core, listens); err != nil {
		p.stop()
		return nil, fmt.Errorf("%w: %s\n%s", err, strings.Join(command, " "), p.said())
	}
	return p, nil
}

// await waits for it to listen, for half a minute at least.
func (p *process) await(core int, listens func() (bool, error)) error {
	for range 6000 {
		ready, err := listens()
		if err != nil {
			return err
		}
		if ready {
			return p.pin(core)
		}
		select {
		case <-p.ended:
			return errors.New("it ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return errors.New("it does not listen")
}

func (p *process) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// said is the end of what it wrote.
func (p *process) said() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-500):])
}

// look looks for the processes that descend from it. It takes a few milliseconds:
// too long between a measurement and the reading of [process.runTime].
func (p *process) look() {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in brackets, may hold anything.
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

func (p *process) pin(core int) error {
	p.look()
	for _, pid := range p.pids {
		if err := pin(pid, core); err != nil {
			return err
		}
	}
	return nil
}

// runTime is how long all its threads have run.
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

// size is what a process has of memory, in bytes, and of descriptors.
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

// kilobytes returns a line of /proc/PID/status, in bytes.
func kilobytes(status, line string) int {
	_, rest, _ := strings.Cut(status, line)
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n << 10
}

// loadCore is the core of load and backend.
func loadCore() int { return min(1, runtime.NumCPU()-1) }

// pin puts a process on a core, 0 is this one.
func pin(pid, core int) error {
	var set unix.CPUSet
	set.Set(core)
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

// listening says whether somebody of this namespace has a port.
func listening(protocol string, port uint16) func() (bool, error) {
	state := " "
	if protocol == "tcp" {
		state = " 0A" // TCP_LISTEN
	}
	return func() (bool, error) {
		for table, anybody := range map[string]string{protocol: "00000000", protocol + "6": "00000000000000000000000000000000"} {
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

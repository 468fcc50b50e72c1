package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	quick, json   bool
	rounds        int
	duration      time.Duration
	unproxy, peer string
	match         string
	peerHeaders   bool
}

// relayCommand makes the program the minimal relay.
const relayCommand = "relay-udp"

// row is one kind of load.
type row struct{ flows, size int }

func (r row) String() string {
	return fmt.Sprintf("%d B, %d flow%s", r.size, r.flows, strings.Repeat("s", min(1, r.flows-1)))
}

// rows are the loads, and with a window such that nothing needs to be lost.
func rows(o options) []row {
	var all []row
	for _, size := range []int{64, 1200} {
		for _, flows := range []int{1, 100, 10000} {
			all = append(all, row{flows, size})
		}
	}
	if o.quick {
		all = []row{{1, 64}, {100, 64}}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !strings.Contains(r.String(), o.match) })
}

func (r row) window() int {
	if r.flows == 1 {
		return 64
	}
	return 256
}

// result is one run.
type result struct {
	Row      string  `json:"row"`
	Program  string  `json:"program"`
	Rate     float64 `json:"datagrams_per_second"` // there and back
	Lost     float64 `json:"lost"`                 // of those sent
	CPU      float64 `json:"cpu_us"`               // of the gateway for one there and back
	MemoryKB int     `json:"rss_kb"`
}

// run measures all programs with all loads, and prints what came of it.
func run(o options) error {
	if os.Getenv(namespaced) == "" {
		return again()
	}
	if o.quick {
		o.rounds, o.duration = 1, 300*time.Millisecond
	}
	scratch, err := os.MkdirTemp("", "unproxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	programs, err := programsFor(o, scratch)
	if err != nil {
		return err
	}
	if err := pin(0, loadCore()); err != nil {
		return err
	}
	var all []result
	for _, r := range rows(o) {
		for round := range o.rounds {
			order := slices.Clone(programs)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				got, err := measure(r, p, o.duration)
				if err != nil {
					return fmt.Errorf("%s, %v: %w", p.name, r, err)
				}
				all = append(all, got)
				if o.json {
					json.NewEncoder(os.Stdout).Encode(got)
				}
			}
		}
	}
	if !o.json {
		table(o, programs, all)
	}
	return nil
}

// measure runs a program under a load.
func measure(r row, p program, d time.Duration) (result, error) {
	var stop atomic.Bool
	fd, err := socket([4]byte{127, 0, 0, 1}, udpBackendPort, unix.Timeval{Usec: 50000})
	if err != nil {
		return result{}, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		echo(fd, &stop)
	}()
	defer func() {
		stop.Store(true)
		<-ended
		unix.Close(fd)
	}()
	gateway := exec.Command(p.command[0], p.command[1:]...)
	gateway.Env = append(os.Environ(), "GOMAXPROCS=1")
	var said bytes.Buffer
	gateway.Stderr = &said
	gateway.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := gateway.Start(); err != nil {
		return result{}, err
	}
	defer gateway.Wait()
	defer gateway.Process.Kill()
	if err := awaitUDP(); err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, said.String())
	}
	if err := pin(gateway.Process.Pid, 0); err != nil {
		return result{}, err
	}
	got, err := underLoad(r, p, gateway.Process.Pid, d)
	if err != nil {
		return got, fmt.Errorf("%w\n%s", err, said.String())
	}
	return got, nil
}

// underLoad counts what a running gateway does in a time.
func underLoad(r row, p program, pid int, d time.Duration) (result, error) {
	l, err := newLoad(r, p.headers)
	if err != nil {
		return result{}, err
	}
	defer l.close()
	if _, err := l.run(min(d, 500*time.Millisecond)); err != nil {
		return result{}, err
	}
	before, err := runTime(pid)
	if err != nil {
		return result{}, err
	}
	c, err := l.run(d)
	if err != nil {
		return result{}, err
	}
	after, err := runTime(pid)
	if err != nil {
		return result{}, err
	}
	if c.received == 0 {
		return result{}, errors.New("nothing came back")
	}
	return result{
		Row: r.String(), Program: p.name,
		Rate:     float64(c.received) / c.elapsed.Seconds(),
		Lost:     float64(c.lost) / float64(c.sent),
		CPU:      float64((after - before).Microseconds()) / float64(c.received),
		MemoryKB: resident(pid),
	}, nil
}

package main

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
)

func TestListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	// A connection to the port in TIME_WAIT is not a listener.
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if is, err := listening("tcp", port)(); err != nil || !is {
		t.Errorf("with a listener: %v, %v", is, err)
	}
	l.Close()
	c.Close()
	if is, err := listening("tcp", port)(); err != nil || is {
		t.Errorf("without a listener: %v, %v", is, err)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if is, err := listening("udp", uint16(u.LocalAddr().(*net.UDPAddr).Port))(); err != nil || !is {
		t.Errorf("UDP: %v, %v", is, err)
	}
}

// A process and its descendants are found, measured and ended.
func TestProcessTreeIsMeasuredAndEnded(t *testing.T) {
	runtime.LockOSThread() // the process ends with the thread
	defer runtime.UnlockOSThread()
	log := filepath.Join(t.TempDir(), "log")
	never := func() (bool, error) { return false, nil }
	if _, err := start([]string{"sh", "-c", "echo no such flag >&2; exit 3"}, gatewayCores(), log, never); err == nil ||
		!strings.Contains(err.Error(), "the program ended") || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("a process that ends: %v", err)
	}
	// When it prints, it has started two others.
	written := func() (bool, error) {
		text, err := os.ReadFile(log)
		return strings.Contains(string(text), "ready"), err
	}
	p, err := start([]string{"sh", "-c", "sleep 60 & (sleep 60; true) & echo ready; wait"}, gatewayCores(), log, written)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.pids) < 3 || p.pids[0] != p.cmd.Process.Pid {
		t.Errorf("the processes are %v", p.pids)
	}
	if d, err := p.runTime(); err != nil || d <= 0 {
		t.Errorf("they ran for %v, %v", d, err)
	}
	if s := p.size(); s.rss < 4096 || s.descriptors < 3 {
		t.Errorf("they have %+v", s)
	}
	p.stop()
	for _, pid := range p.pids {
		lab.Gone(t, pid) // stop does not wait for the descendants
	}
}

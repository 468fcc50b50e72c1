package attach

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Listeners says which listeners that existed before are covered. A socket that begins to
// listen later always is.
type Listeners struct {
	Covered   int      // listeners on the listed ports that are covered now
	Uncovered []uint16 // the ports of those that are not, in order
	// Err says why they are not, or why some could not be looked at: on kernels before
	// 6.12 their servers must be restarted.
	Err error
}

// change is what to do with listeners, see listeners.bpf.c.
type change uint32

const (
	report change = 0
	mark   change = 1
	unmark change = 2
)

// changeListeners goes through the listeners on ports whose sockets belong to a cgroup, in
// all network namespaces.
func changeListeners(path string, ports []uint16, c change) (l Listeners) {
	program, err := loadIterator(path, ports, c)
	if err != nil {
		l.Err = explain("load the program that marks listeners", err)
		return l
	}
	defer program.Close()
	err = eachNamespace(func(at *os.File) {
		content, err := iterateIn(at, program)
		if err != nil {
			l.Err = errors.Join(l.Err, fmt.Errorf("list the listeners of %s: %w", at.Name(), err))
			return
		}
		l.add(content, c)
	})
	l.Err = errors.Join(l.Err, err)
	slices.Sort(l.Uncovered)
	l.Uncovered = slices.Compact(l.Uncovered)
	return l
}

// listener is struct listener of listeners.bpf.c.
type listener struct {
	Port   uint32
	Error  int32
	Marked uint32
}

// add counts the listeners of one network namespace.
func (l *Listeners) add(content []byte, c change) {
	for r := bytes.NewReader(content); ; {
		var one listener
		if binary.Read(r, binary.NativeEndian, &one) != nil {
			return
		}
		switch {
		case one.Error == 0 && (one.Marked != 0 || c == mark):
			l.Covered++
		default:
			l.Uncovered = append(l.Uncovered, uint16(one.Port))
			if one.Error != 0 {
				l.Err = fmt.Errorf("mark the listener on port %d: %w", one.Port, unix.Errno(-one.Error))
			}
		}
	}
}

func loadIterator(path string, ports []uint16, c change) (*ebpf.Program, error) {
	raiseLockedMemory()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(listenersObject))
	if err != nil {
		return nil, err
	}
	var cgroup unix.Stat_t // its inode number is the number of the cgroup
	if err := unix.Stat(path, &cgroup); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := errors.Join(spec.Variables["change"].Set(uint32(c)), spec.Variables["cgroup_id"].Set(cgroup.Ino)); err != nil {
		return nil, err
	}
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	for _, p := range ports {
		if err := all.Maps["toa_ports"].Put(p, uint8(1)); err != nil {
			return nil, err
		}
	}
	return all.DetachProgram("unproxy_mark"), nil
}

// eachNamespace calls f with each network namespace in which a process is, the caller's own
// first. The open file keeps the namespace if its processes end meanwhile.
func eachNamespace(f func(at *os.File)) error {
	processes, err := filepath.Glob("/proc/[1-9]*/ns/net")
	if err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for _, path := range append([]string{"/proc/self/ns/net"}, processes...) {
		at, err := os.Open(path)
		if err != nil {
			continue // the process has ended, or is not this user's to look at
		}
		var id unix.Stat_t
		if unix.Fstat(int(at.Fd()), &id) == nil && !seen[id.Ino] {
			seen[id.Ino] = true
			f(at)
		}
		at.Close()
	}
	return nil
}

// iterateIn runs the iterator in a network namespace and returns what it has written.
func iterateIn(namespace *os.File, program *ebpf.Program) (content []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and does not come back to others
		content, err = iterate(namespace, program)
	}()
	<-done
	return content, err
}

func iterate(namespace *os.File, program *ebpf.Program) ([]byte, error) {
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	i, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, err
	}
	defer i.Close()
	r, err := i.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

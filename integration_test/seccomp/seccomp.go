// Package seccomp makes system calls fail, as a sandbox does or a kernel that lacks something.
package seccomp

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Refusal is a system call that fails.
type Refusal struct {
	// Call is its number, such as [unix.SYS_SOCKET].
	Call uint32
	// Arguments are those that it fails with, the first one first.
	Arguments []Argument
	// Errno is its error.
	Errno unix.Errno
}

// Argument is the value of an argument, by its number from 0. The upper 32 bits are not looked at.
type Argument struct {
	Number, Value uint32
}

// Apply makes the call fail in this thread, and in the processes that it starts. That cannot be
// undone, so the caller must lock the goroutine to the thread, and not unlock it. It needs
// CAP_SYS_ADMIN, which the root of a namespace has (seccomp(2)).
func (r Refusal) Apply() error {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		number, arguments, width = 0, 16, 8 // in struct seccomp_data, on little-endian hosts
	)
	program := []unix.SockFilter{{Code: load, K: number}, {Code: equal, K: r.Call}}
	for _, a := range r.Arguments {
		program = append(program, unix.SockFilter{Code: load, K: arguments + width*a.Number},
			unix.SockFilter{Code: equal, K: a.Value})
	}
	program = append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(r.Errno)},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
	for i := range program {
		if program[i].Code == equal { // else allow
			program[i].Jf = uint8(len(program) - 1 - (i + 1))
		}
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
	runtime.KeepAlive(program)
	return os.NewSyscallError("prctl PR_SET_SECCOMP", err)
}

package lab

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forgetIPv6 makes socket(2) fail with EAFNOSUPPORT for AF_INET6, in this thread and
// the processes that it starts. It needs CAP_SYS_ADMIN, which the root of a namespace
// has (seccomp(2)).
func forgetIPv6() error {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		number, family = 0, 16 // offsets in struct seccomp_data, on little-endian hosts
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_SOCKET, Jf: 3},
		{Code: load, K: family},
		{Code: equal, K: unix.AF_INET6, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
	runtime.KeepAlive(program)
	return os.NewSyscallError("prctl", err)
}

package errnos

import (
	"fmt"
	"syscall"
	"testing"
)

// Case is a way in which a call fails.
type Case struct {
	Nth   int // of the calls of this method at this place, from 0
	Errno syscall.Errno
	Lasts bool // later calls of the method fail, too
}

// Cases lists how a call fails that is made n times. If all is set, the first call has every error;
// else, and for the rest, one of each kind.
func Cases(list []syscall.Errno, n int, all bool) (cases []Case) {
	few := Kinds(list)
	if !all {
		list = few
	}
	for _, errno := range list {
		cases = append(cases, Case{0, errno, false})
	}
	for _, errno := range few {
		cases = append(cases, Case{0, errno, true})
		if n > 1 {
			cases = append(cases, Case{n - 1, errno, false})
		}
	}
	return cases
}

// Named says in each error which fault, or which steps, were played: thousands of subtests would take longer
// than the test.
type Named struct {
	*testing.T
	Fault string
}

// Error is [testing.T.Error] behind the name, and so on.
func (n *Named) Error(args ...any) { n.Helper(); n.T.Error(n.Fault + ": " + fmt.Sprint(args...)) }
func (n *Named) Errorf(format string, args ...any) {
	n.Helper()
	n.T.Errorf("%s: %s", n.Fault, fmt.Sprintf(format, args...))
}
func (n *Named) Fatal(args ...any) { n.Helper(); n.T.Fatal(n.Fault + ": " + fmt.Sprint(args...)) }
func (n *Named) Fatalf(format string, args ...any) {
	n.Helper()
	n.T.Fatalf("%s: %s", n.Fault, fmt.Sprintf(format, args...))
}

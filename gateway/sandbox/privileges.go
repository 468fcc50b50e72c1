package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Capability is a capability of a process (capabilities(7)).
type Capability = cap.Value

// The capabilities that a gateway can need once its listeners are open.
const (
	// NetRaw permits IP_TRANSPARENT, SO_MARK and the self-test of return paths.
	NetRaw = cap.NET_RAW
	// NetAdmin permits these as well, and to change the host's network.
	NetAdmin = cap.NET_ADMIN
	// NetBindService permits clients' ports below 1024.
	NetBindService = cap.NET_BIND_SERVICE
)

// Has reports whether the process has a capability.
func Has(c Capability) bool {
	has, err := cap.GetProc().GetFlag(cap.Permitted, c)
	return err == nil && has
}

// dropCapabilities keeps those of the given capabilities that the process has, in all
// five sets, and drops every other one. The ambient set takes what is kept to a program
// that the process starts, such as the one that takes over in an upgrade.
func dropCapabilities(keep []Capability) error {
	now := cap.GetProc()
	var kept []Capability
	for _, c := range keep {
		if Has(c) {
			kept = append(kept, c)
		}
	}
	if err := dropBounding(now, kept); err != nil {
		return err
	}
	set := cap.NewSet()
	for _, f := range []cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
		if err := set.SetFlag(f, true, kept...); err != nil {
			return err
		}
	}
	// A filter of system calls may deny capset(2) to a process that has nothing to drop.
	if differs, err := now.Cf(set); err == nil && differs == 0 {
		return nil
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return setAmbient(kept)
}

// setAmbient makes kept the ambient set.
func setAmbient(kept []Capability) error {
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("reset the ambient set: %w", err)
	}
	if len(kept) == 0 {
		return nil
	}
	if err := cap.SetAmbient(true, kept...); err != nil {
		return fmt.Errorf("set the ambient set: %w", err)
	}
	return nil
}

// dropBounding removes all but the kept capabilities from the bounding set. Without
// CAP_SETPCAP the set cannot be changed: then the process is no root, and no_new_privs
// keeps it from gaining a capability.
func dropBounding(now *cap.Set, kept []Capability) error {
	if can, err := now.GetFlag(cap.Permitted, cap.SETPCAP); err != nil || !can {
		return err
	}
	if err := now.SetFlag(cap.Effective, true, cap.SETPCAP); err != nil {
		return err
	}
	if err := now.SetProc(); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for c := range cap.MaxBits() {
		if has, err := cap.GetBound(c); err != nil || !has || slices.Contains(kept, c) {
			continue
		}
		if err := cap.DropBound(c); err != nil {
			return fmt.Errorf("drop %v from the bounding set: %w", c, err)
		}
	}
	return nil
}

// permitted returns the names of the permitted capabilities, upper case as in
// capabilities(7).
func permitted() []string {
	names := []string{}
	set := cap.GetProc()
	for c := range cap.MaxBits() {
		if has, err := set.GetFlag(cap.Permitted, c); err == nil && has {
			names = append(names, strings.ToUpper(c.String()))
		}
	}
	return names
}

// setNoNewPrivileges sets no_new_privs for all threads.
func setNoNewPrivileges() error {
	_, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
}

// setUndumpable keeps processes of the same user from attaching to this one and from
// reading its memory, and turns core dumps off (ptrace(2), core(5)).
func setUndumpable() error {
	return os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// Package sandbox takes from this process what it does not need once its listeners are
// open: the user root, capabilities, the way to new privileges, and files.
//
// A [Policy] says what to keep. [Policy.Apply] applies it to every thread of the process,
// for good: what it takes does not come back, also not for the programs that the process
// starts. [Report] says what is in force.
package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode says what happens if the host does not support a restriction.
type Mode uint8

// The modes.
const (
	// Auto applies what the host supports. [Report.Missing] lists the rest.
	Auto Mode = iota
	// Strict fails if a restriction cannot be applied.
	Strict
	// Off applies none. A [User] is still changed to.
	Off
)

// ModeNames returns the names of the modes, in the order of their values.
func ModeNames() []string { return []string{"auto", "strict", "off"} }

// String returns the name of the mode.
func (m Mode) String() string { return ModeNames()[m] }

// Policy is what the process keeps.
type Policy struct {
	Mode Mode
	// User is the user to become; nil keeps the current one.
	User *User
	// Capabilities are kept if the process has them. All others are dropped.
	Capabilities []Capability
	// Files are the files that stay accessible.
	Files Files
}

// Report is what is in force for this process. It is a part of /status.json.
type Report struct {
	// Mode is that of the policy.
	Mode string `json:"mode"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	// Capabilities are the names of the permitted capabilities (capabilities(7)).
	Capabilities []string `json:"capabilities"`
	// NoNewPrivileges means that no program that the process starts can gain privileges
	// (PR_SET_NO_NEW_PRIVS, prctl(2)).
	NoNewPrivileges bool `json:"no_new_privileges"`
	// Dumpable means that the processes of the same user can read the memory of this one
	// (PR_SET_DUMPABLE, prctl(2)).
	Dumpable bool `json:"dumpable"`
	// Landlock is the version of the kernel's Landlock interface that restricts files
	// (landlock(7)); 0 is none.
	Landlock int `json:"landlock"`
	// Missing is what could not be applied, and why; empty in the mode off.
	Missing []string `json:"missing"`
}

// String returns the report in a few words: "user 65534, capabilities CAP_NET_RAW, no new
// privileges, Landlock 5".
func (r Report) String() string {
	words := []string{fmt.Sprintf("user %d", r.UID)}
	switch n := len(r.Capabilities); {
	case n == 0:
		words = append(words, "no capabilities")
	case n > mostListed:
		words = append(words, fmt.Sprintf("%d capabilities", n))
	default:
		words = append(words, "capabilities "+strings.Join(r.Capabilities, " "))
	}
	if r.NoNewPrivileges {
		words = append(words, "no new privileges")
	}
	if r.Landlock > 0 {
		words = append(words, fmt.Sprintf("Landlock %d", r.Landlock))
	}
	return strings.Join(words, ", ")
}

// mostListed is the number of capabilities that are listed by name.
const mostListed = 3

// Apply applies the policy to all threads. The error is that of the user, or in the mode
// strict all that could not be applied. Call it once, before the process uses data of
// others; it may run while other goroutines do.
func (p Policy) Apply() (Report, error) {
	r := Report{Mode: p.Mode.String(), Missing: []string{}}
	err := threads()
	if p.User != nil {
		if err == nil {
			err = p.User.become()
		}
		if err != nil {
			return r, err
		}
	}
	switch {
	case err != nil && p.Mode != Off:
		r.Missing = append(r.Missing, err.Error())
	case p.Mode != Off:
		err = r.restrict(p)
	case p.User != nil:
		if err := dropCapabilities(p.Capabilities); err != nil {
			return r, fmt.Errorf("drop capabilities: %w", err)
		}
	}
	r.observe()
	if p.Mode != Strict {
		err = nil
	}
	return r, err
}

// restrict applies each restriction, and adds those that fail to Missing.
func (r *Report) restrict(p Policy) error {
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
			r.Missing = append(r.Missing, err.Error())
			errs = append(errs, err)
		}
	}
	try("drop capabilities", dropCapabilities(p.Capabilities))
	try("no_new_privs", setNoNewPrivileges())
	try("not dumpable", setUndumpable())
	version, err := p.Files.restrict()
	r.Landlock = version
	try("Landlock", err)
	return errors.Join(errs...)
}

// observe reads what is in force.
func (r *Report) observe() {
	r.UID, r.GID = unix.Getuid(), unix.Getgid()
	r.Capabilities = permitted()
	privileges, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	r.NoNewPrivileges = err == nil && privileges == 1
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	r.Dumpable = err != nil || dumpable == 1
}

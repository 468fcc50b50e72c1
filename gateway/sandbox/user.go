package sandbox

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// User is a user and its groups.
type User struct {
	// Text is NAME or NAME:GROUP, as given.
	Text string
	// UID and GID are the numbers. Groups are the supplementary groups.
	UID, GID int
	Groups   []int
}

// FindUser looks up NAME or NAME:GROUP, by name or number, in passwd(5) and group(5).
// Without a group it has all groups of the user, with one only that. A number needs no
// entry if a group is given.
func FindUser(text string) (*User, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	u := &User{Text: text}
	entry, err := lookup(name)
	switch {
	case err == nil:
		if err := u.fill(entry, !hasGroup); err != nil {
			return nil, err
		}
	case !hasGroup:
		return nil, err
	default:
		if u.UID, err = number(name, err); err != nil {
			return nil, err
		}
	}
	if hasGroup {
		if u.GID, err = findGroup(group); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// lookup finds a user by name or number.
func lookup(name string) (*user.User, error) {
	entry, err := user.Lookup(name)
	if err != nil && isNumber(name) {
		entry, err = user.LookupId(name)
	}
	if err != nil {
		return nil, fmt.Errorf("there is no user %.64q: %w", name, err)
	}
	return entry, nil
}

// fill sets the numbers of an entry, and its supplementary groups if withGroups is set.
func (u *User) fill(entry *user.User, withGroups bool) (err error) {
	var ids []string
	if withGroups {
		if ids, err = entry.GroupIds(); err != nil {
			return fmt.Errorf("groups of user %q: %w", entry.Username, err)
		}
	}
	var errs []error
	parse := func(text string) int {
		n, err := strconv.Atoi(text)
		errs = append(errs, err)
		return n
	}
	u.UID, u.GID = parse(entry.Uid), parse(entry.Gid)
	for _, id := range ids {
		u.Groups = append(u.Groups, parse(id))
	}
	return errors.Join(errs...)
}

// findGroup returns the number of a group.
func findGroup(name string) (int, error) {
	entry, err := user.LookupGroup(name)
	if err != nil {
		return number(name, fmt.Errorf("there is no group %.64q: %w", name, err))
	}
	return strconv.Atoi(entry.Gid)
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 31)
	return err == nil
}

// number returns the number in text, or otherwise.
func number(text string, otherwise error) (int, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return int(n), nil
	}
	return 0, otherwise
}

// become changes the user and the groups of all threads. The process keeps its permitted
// capabilities. It does nothing if the process runs as that user and group already, as
// after an upgrade.
func (u *User) become() error {
	if unix.Getuid() == u.UID && unix.Geteuid() == u.UID && unix.Getgid() == u.GID {
		return nil
	}
	if err := cap.SetGroups(u.GID, u.Groups...); err != nil {
		return fmt.Errorf("change to the groups of %q, from user %d: %w", u.Text, unix.Getuid(), err)
	}
	if err := cap.SetUID(u.UID); err != nil {
		return fmt.Errorf("change to the user %q, from user %d: %w", u.Text, unix.Getuid(), err)
	}
	return nil
}

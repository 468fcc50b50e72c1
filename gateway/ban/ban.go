// Package ban keeps the clients that an operator has banned while the gateway runs.
//
// A [List] is read by the event loops for each connection: they load an immutable table
// and take no lock. Everything else, such as a change or the file, takes one.
package ban

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// Most is the number of bans that a list holds. Lists of more addresses belong into a
	// file of rules.
	Most = 65536
	// MostReason is the maximum length of [Ban.Reason] in bytes.
	MostReason = 200
)

// The errors of a change.
var (
	// ErrFull means that the list holds [Most] bans.
	ErrFull = errors.New("the list is full: it holds " + strconv.Itoa(Most) + " bans")
	// ErrFrozen means that another process takes the list over. The same change succeeds
	// there.
	ErrFrozen = errors.New("another process is taking over: repeat the request")
)

// Ban is one banned client, or a prefix of them.
type Ban struct {
	// Prefix has no host bits and is never IPv4-mapped IPv6. It is longer than 0 bits.
	Prefix netip.Prefix
	// Since is when the ban was made.
	Since time.Time
	// Until is when it ends; the zero time is never.
	Until time.Time
	// Reason is the operator's note, at most [MostReason] bytes of printable UTF-8. It may
	// be "".
	Reason string
	// Hits is the number of connections and UDP flows that the ban refused in this process.
	Hits uint64
}

// over reports whether the ban has ended at a time.
func (b *Ban) over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// check returns why the ban cannot be in a list, or nil.
func (b *Ban) check() error {
	switch p := b.Prefix; {
	case !p.IsValid():
		return errors.New("a ban has no prefix")
	case p.Addr().Is4In6() || p != p.Masked():
		return fmt.Errorf("%s is not a plain prefix: write %s", p, plain(p))
	case p.Bits() == 0:
		return CheckWidth(p)
	case b.Since.IsZero():
		return fmt.Errorf("the ban of %s has no beginning", p)
	case !writable(b.Since) || !b.Until.IsZero() && !writable(b.Until):
		return fmt.Errorf("the ban of %s is not from the years 1970 to 9999", p)
	}
	return checkReason(b.Reason)
}

// CheckWidth returns why a prefix is too wide for a ban, or nil.
func CheckWidth(p netip.Prefix) error {
	if p.Bits() > 0 {
		return nil
	}
	family := "IPv6"
	if p.Addr().Is4() {
		family = "IPv4"
	}
	return fmt.Errorf("%s would ban every client of %s", p, family)
}

// writable reports whether JSON can hold a time (RFC 3339 has years of four digits).
func writable(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 9999 }

// plain returns the prefix without host bits, and as IPv4 if it is IPv4-mapped.
func plain(p netip.Prefix) netip.Prefix {
	bits := p.Bits()
	if p.Addr().Is4In6() {
		bits = max(0, bits-96)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), bits).Masked()
}

func checkReason(reason string) error {
	if len(reason) > MostReason {
		return fmt.Errorf("the reason has %d bytes: the maximum is %d", len(reason), MostReason)
	}
	if !utf8.ValidString(reason) {
		return errors.New("the reason is not valid UTF-8")
	}
	for _, r := range reason {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("the reason contains %q, which is not printable", r)
		}
	}
	return nil
}

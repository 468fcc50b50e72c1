// Package value parses the values of flags, environment variables and keys. It has
// no state and does no I/O.
package value

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Error is the error for an invalid value.
type Error struct {
	// Why follows the quoted value in messages: "is not a duration".
	Why string
	// Value is the rejected value if several were given; "" is the last one.
	Value string
	// Hint is a valid value that was probably intended, or "".
	Hint string
}

// Error returns Why.
func (e *Error) Error() string { return e.Why }

// off is the word for zero in numbers and durations.
const off = "off"

// Duration parses a Go duration, "5s" or "1m30s", from least to most. "0" and "off"
// are always accepted and mean zero.
func Duration(text string, least, most time.Duration) (time.Duration, error) {
	if text == off {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, notDuration(text)
	case d < 0 || d > 0 && d < least:
		return 0, &Error{Why: fmt.Sprintf("is too short: the minimum is %v, or 0 for off", least), Hint: least.String()}
	case d > most:
		return 0, &Error{Why: fmt.Sprintf("is too long: the maximum is %v", most), Hint: most.String()}
	}
	return d, nil
}

// notDuration returns the error for text. For a number without a unit, it suggests
// seconds.
func notDuration(text string) error {
	e := &Error{Why: "is not a duration such as 500ms, 5s or 1m30s"}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		e.Why = "has no unit: write a duration such as 500ms, 5s or 1m30s"
		e.Hint = fmt.Sprintf("%ds", n)
	}
	return e
}

// units are the units of sizes, in bytes. All are powers of two, as in nginx.
var units = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10,
	"m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
	"g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30,
}

// mostSize is the highest number of bytes.
const mostSize = 1 << 40

// Size parses a number of bytes, at most 1024 GiB: "4096", "64k", "16KiB", "1MiB". Units are not
// case-sensitive.
func Size(text string) (int, error) {
	bad := &Error{Why: "is not a size such as 4096, 64k or 16KiB"}
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	n, err := strconv.ParseInt(text[:end], 10, 64)
	if err != nil {
		return 0, bad
	}
	unit, ok := units[strings.ToLower(strings.TrimSpace(text[end:]))]
	if !ok {
		return 0, bad
	}
	if n > mostSize/unit {
		return 0, &Error{Why: "is too large: the maximum is 1024GiB"}
	}
	return int(n * unit), nil
}

// Count parses a whole number from 0 to most, in decimal or, with the prefix 0x, in
// hexadecimal. "off" is zero.
func Count(text string, most uint64) (uint64, error) {
	if text == off {
		return 0, nil
	}
	digits, base := text, 10
	if rest, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		digits, base = rest, 16
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if err != nil || n > most {
		return 0, &Error{Why: fmt.Sprintf("is not a whole number from 0 to %d", most)}
	}
	return n, nil
}

// Switch parses on or off. The empty text, a key without a value, is on.
func Switch(text string) (bool, error) {
	switch text {
	case "", "on", "true", "1":
		return true, nil
	case off, "false", "0":
		return false, nil
	}
	_, err := Word(text, "on", off)
	return false, err
}

// Word returns the index of text in words.
func Word(text string, words ...string) (int, error) {
	for i, w := range words {
		if w == text {
			return i, nil
		}
	}
	return 0, &Error{Why: "is not one of " + strings.Join(words, ", "), Hint: Nearest(text, words)}
}

// Mode parses the permission bits of a file, in octal: "0660" or "660".
func Mode(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > 0o777 {
		return 0, &Error{Why: "is not a file mode, three octal digits such as 0660", Hint: "0660"}
	}
	return uint32(n), nil
}

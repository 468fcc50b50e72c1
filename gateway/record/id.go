package record

import (
	"strconv"
	"strings"
)

// AppendID appends a connection's ID to b as logs and the admin endpoint show
// it: the instance, a hyphen, and id in hexadecimal, "c8f3a1b2-2a". The instance
// distinguishes the connections of this process from those of others.
func AppendID(b []byte, instance string, id uint64) []byte {
	return strconv.AppendUint(append(append(b, instance...), '-'), id, 16)
}

// ParseID parses an ID that [AppendID] wrote for the same instance. ok is false
// for anything else.
func ParseID(text, instance string) (id uint64, ok bool) {
	digits, ok := strings.CutPrefix(text, instance+"-")
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return id, err == nil
}

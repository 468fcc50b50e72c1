package record

import (
	"strconv"
	"strings"
)

// AppendID appends a connection's id as logs and the admin endpoint have it.
// instance tells the process from others.
func AppendID(b []byte, instance string, id uint64) []byte {
	return strconv.AppendUint(append(append(b, instance...), '-'), id, 16)
}

// ParseID reads what [AppendID] wrote for the same instance.
func ParseID(text, instance string) (id uint64, ok bool) {
	digits, ok := strings.CutPrefix(text, instance+"-")
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return id, err == nil
}

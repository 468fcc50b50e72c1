package doctor

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// number reads a file that holds one number, such as those below proc/sys.
func (h Host) number(path string) (int, error) {
	text, err := fs.ReadFile(h.Files, path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read /%s: %w", path, err)
	}
	return n, nil
}

// setting reads a kernel parameter by its name for sysctl(8). One that is not
// there, or cannot be read, has the value that stands for it.
func (h Host) setting(name string, otherwise int) int {
	n, err := h.number("proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return otherwise
	}
	return n
}

// devices returns the interfaces on which a parameter of IPv4 has a value of at
// least one, "all" among them.
func (h Host) devices(parameter string) []string {
	paths, err := fs.Glob(h.Files, "proc/sys/net/ipv4/conf/*/"+parameter)
	if err != nil {
		return nil
	}
	var found []string
	for _, path := range paths {
		device := strings.Split(path, "/")[5]
		if n, err := h.number(path); err == nil && n > 0 && device != "default" {
			found = append(found, device)
		}
	}
	return found
}

package doctor

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// number reads a file that contains one decimal number.
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

// sysctl returns a kernel parameter, named as for sysctl(8). It returns fallback
// if the parameter does not exist or cannot be read.
func (h Host) sysctl(name string, fallback int) int {
	n, err := h.number("proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return fallback
	}
	return n
}

// firstUnprivilegedPort returns the lowest port that needs no
// CAP_NET_BIND_SERVICE (ip-sysctl.rst).
func (h Host) firstUnprivilegedPort() int {
	return h.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
}

// devices returns the interfaces, including "all", for which an IPv4 parameter is
// positive.
func (h Host) devices(parameter string) []string {
	files, err := fs.Glob(h.Files, "proc/sys/net/ipv4/conf/*/"+parameter)
	if err != nil {
		return nil
	}
	var found []string
	for _, file := range files {
		device := path.Base(path.Dir(file))
		if n, err := h.number(file); err == nil && n > 0 && device != "default" {
			found = append(found, device)
		}
	}
	return found
}

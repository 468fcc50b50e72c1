package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
)

// putUnit copies a shipped unit to a path, and replaces the installed program in it by the one under test.
func putUnit(t *testing.T, name, path string) {
	t.Helper()
	text := strings.ReplaceAll(string(readFile(t, "../scripts/systemd/"+name)), "/usr/bin/unproxy", lab.Binary(t))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// units puts the units of the gateway in a temporary directory and returns the path of the service.
func units(t *testing.T, dropIn bool) string {
	t.Helper()
	dir := t.TempDir()
	service := filepath.Join(dir, "unproxy.service")
	putUnit(t, "unproxy.service", service)
	putUnit(t, "unproxy.socket", filepath.Join(dir, "unproxy.socket"))
	if dropIn {
		putUnit(t, "transparent.conf", service+".d/transparent.conf")
	}
	return service
}

// systemd-analyze verifies the units, and rates their exposure at most 2.0 of 10.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	lab.Require(t, "systemd-analyze")
	for name, dropIn := range map[string]bool{"plain": false, "transparent": true} {
		service := units(t, dropIn)
		for _, args := range [][]string{
			{"verify", service, strings.TrimSuffix(service, "service") + "socket"},
			{"security", "--offline=true", "--threshold=20", "--no-pager", service},
		} {
			output, code := lab.Run(t, lab.Command{Name: "systemd-analyze", Args: args})
			if code != 0 || args[0] == "verify" && strings.Contains(output, "unproxy") {
				t.Errorf("%s: systemd-analyze %s: exit code %d:\n%s", name, args[0], code, output)
			}
		}
	}
}

// systemd-analyze verifies the units of --transparent toa.
func TestSystemdUnitsOfTOA(t *testing.T) {
	t.Parallel()
	lab.Require(t, "systemd-analyze")
	gateway := units(t, false)
	server := filepath.Join(filepath.Dir(gateway), "unproxy-toa.service")
	putUnit(t, "toa.conf", gateway+".d/toa.conf")
	putUnit(t, "unproxy-toa.service", server)
	for _, unit := range []string{gateway, server} {
		output, code := lab.Run(t, lab.Command{Name: "systemd-analyze", Args: []string{"verify", unit}})
		if code != 0 || strings.Contains(output, "unproxy") {
			t.Errorf("systemd-analyze verify %s: exit code %d:\n%s", unit, code, output)
		}
	}
}

// The capabilities of unproxy-toa.service suffice; without CAP_SYS_ADMIN it fails with a
// hint that names it.
func TestTOACapabilities(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can attach BPF programs")
	}
	unit := string(readFile(t, "../scripts/systemd/unproxy-toa.service"))
	if !strings.Contains(unit, "\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE\n") {
		t.Fatal("the unit has other capabilities")
	}
	path := cgroup.Processes(t)
	run := func(capabilities []uintptr, args ...string) (string, int) {
		return lab.Run(t, lab.Command{Name: lab.Binary(t), Limit: true, Capabilities: capabilities,
			Args: append(append([]string{"toa"}, args...), "--cgroup", path)})
	}
	attach := []string{"attach", "--from", "192.0.2.1", "--port", "7"}
	of := []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE}
	for _, args := range [][]string{attach, attach, {"status"}, {"check"}, {"detach"}, {"detach"}} {
		// The second detach names what other tests have attached meanwhile.
		if output, code := run(of, args...); code != 0 || args[0] == "attach" && strings.Contains(output, "warning") {
			t.Errorf("toa %q: exit code %d:\n%s", args, code, output)
		}
	}
	if output, code := run(of[:1], attach...); code != 1 || !strings.Contains(output, "hint: run it as root of the host: ") {
		t.Errorf("without CAP_SYS_ADMIN: exit code %d:\n%s", code, output)
	}
}

package packages_test

import (
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/transparent/toa/attach"
)

// The address from which the gateway connects, and the server in the machine, whose listener
// the programs cover.
const toaSource, toaServer = "127.0.0.77", "127.0.0.1:3001"

// attachDeb turns the backend's side of --transparent toa on, as /etc/default/unproxy-toa
// says. It reports whether the kernel can do it.
func attachDeb(t *testing.T, m machine) bool {
	t.Helper()
	if output, code := lab.Run(t, m.command("unproxy", "toa", "check")); code != 0 {
		t.Logf("--transparent toa is not tested: %s", output)
		return false
	}
	path := "etc/default/unproxy-toa"
	example := readFile(t, filepath.Join(m.root, path))
	changed := strings.Replace(example, "#TOA_FLAGS=--from 10.0.0.5 --port 22 --port 25",
		"TOA_FLAGS=--from "+toaSource+" --port 3001 --port 25", 1)
	if changed == example {
		t.Fatalf("%s has no such example:\n%s", path, example)
	}
	m.write(t, path, changed)
	m.run(t, "systemctl", "enable", "--now", "unproxy-toa")
	wantAttached(t, m)
	return true
}

// wantAttached checks that the programs take clients from the gateway on the listed ports.
func wantAttached(t *testing.T, m machine) {
	t.Helper()
	wantAttachments(t, m, 1)
	status := m.run(t, "unproxy", "toa", "status", "--json")
	for _, want := range []string{`"role":"server"`, `"from":["` + toaSource + `/32"]`, `"ports":[25,3001]`, `"missing":[]`} {
		if !strings.Contains(strings.Join(strings.Fields(status), ""), want) {
			t.Errorf("%s is not attached:\n%s", want, status)
		}
	}
}

// wantAttachments checks how many attachments there are in the machine's cgroup and below it.
func wantAttachments(t *testing.T, m machine, n int) {
	t.Helper()
	if all, err := attach.List(m.group); err != nil || len(all) != n {
		t.Errorf("attached are %+v, %v; want %d attachments", all, err, n)
	}
}

// wantReplaced checks that the upgrade of the package had the new program attach its own.
func wantReplaced(t *testing.T, m machine) {
	t.Helper()
	wantAttached(t, m)
	journal := m.run(t, "journalctl", "--no-pager", "--unit", "unproxy-toa")
	if n := strings.Count(journal, "Reloaded "); n != 1 {
		t.Errorf("reloaded %d times by the upgrade, want once:\n%s", n, journal)
	}
}

// carryDeb links the drop-in of the gateway's host and sends a connection through both.
//
//	conn ──header──▶ 127.0.0.1:2000 unproxy.service ──option──▶ a server in the machine, :3001
func carryDeb(t *testing.T, m machine) {
	t.Helper()
	// A service: its listener belongs to the machine's cgroup, unlike those of run.
	m.run(t, "systemd-run", "--quiet", "--unit=server", "unproxy", "probe", "--listen", toaServer)
	m.waitJournal(t, "server", "listening on "+toaServer)
	m.write(t, "etc/default/unproxy", strings.Replace(settings, "=127.0.0.1:3000", "="+toaServer, 1)+
		"UNPROXY_TRANSPARENT=toa\nUNPROXY_TOA_SOURCE="+toaSource+"\n")
	m.run(t, "mkdir", "-p", "/etc/systemd/system/unproxy.service.d")
	m.run(t, "ln", "-s", "/usr/share/unproxy/toa.conf", "/etc/systemd/system/unproxy.service.d/")
	m.run(t, "systemctl", "daemon-reload")
	m.run(t, "systemctl", "restart", "unproxy")
	lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4), []byte("hello")).CloseWrite()
	m.waitJournal(t, "server", "connection from "+client4.String()+" to "+toaServer)
	wantSandbox(t, m, "0000000000000000")
}

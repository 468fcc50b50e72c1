package containers_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"golang.org/x/sys/unix"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// compose loads the compose file, which validates it against the specification's schema.
func compose(t testing.TB, file types.ConfigFile) (*types.Project, error) {
	t.Helper()
	details := types.ConfigDetails{WorkingDir: scripts + "compose", ConfigFiles: []types.ConfigFile{file}}
	return loader.LoadWithContext(t.Context(), details)
}

func composeFile(t testing.TB) *types.Project {
	t.Helper()
	path := scripts + "compose/compose.yaml"
	project, err := compose(t, types.ConfigFile{Filename: path, Content: []byte(readFile(t, path))})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// The compose file follows its schema, which a broken copy does not, and grants the
// gateway and its routes one capability each.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	project := composeFile(t)
	for service, capability := range map[string]string{"gateway": "NET_RAW", "routes": "NET_ADMIN", "haproxy": ""} {
		s := project.Services[service]
		granted := strings.Join(s.CapAdd, " ")
		if s.Privileged || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || granted != capability ||
			!slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: privileged %t, read-only %t, drops %q, adds %q, options %q",
				service, s.Privileged, s.ReadOnly, s.CapDrop, s.CapAdd, s.SecurityOpt)
		}
	}
	for _, name := range []string{"gateway", "routes"} {
		s := project.Services[name]
		if image := setting(t, "IMAGE"); s.Image != image || s.NetworkMode != "service:sshd" {
			t.Errorf("%s has the image %s, want %s, and the network %s", name, s.Image, image, s.NetworkMode)
		}
	}
	broken := strings.Replace(readFile(t, scripts+"compose/compose.yaml"), "cap_drop", "cap_dropped", 1)
	if _, err := compose(t, types.ConfigFile{Filename: "broken.yaml", Content: []byte(broken)}); err == nil {
		t.Error("a file with an unknown key follows the schema")
	}
}

// setting returns a variable of scripts/package/project.
func setting(t testing.TB, name string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, scripts+"project")) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("scripts/package/project lacks %s", name)
	return ""
}

// The set-up of the compose file with the image's root file system, real HAProxy and real
// sshd. The log of sshd has the client's address.
//
//	client 203.0.113.9 ──▶ haproxy 172.30.0.2:2200 ──header──▶ 172.30.0.3: gateway :2222 ──▶ sshd 127.0.0.1:22
func TestComposeTraffic(t *testing.T) {
	t.Parallel()
	root := image(t)
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "haproxy", "sshd", "ssh")
		project := composeFile(t)
		client := lab.NewHost(t, "internet", "203.0.113.9/24")
		netns.IP(t, "address add 203.0.113.1/24 dev internet")
		pod := podOf(t, project)
		sshd, identity := sshdOn(t, pod)
		lab.Must(t, contained(t, project, container{"routes", root, pod}))
		gateway := lab.Start(t, contained(t, project, container{"gateway", root, pod}))
		gateway.WaitLine(t, `"message":"ready"`)
		wantCapabilities(t, gateway, 1<<unix.CAP_NET_RAW)
		lab.HAProxy(t, readFile(t, scripts+"compose/haproxy.cfg"), "0.0.0.0:2200")

		ssh := lab.Command{Name: "ssh", Args: []string{"-i", identity, "-p", "2200", "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "root@203.0.113.1", "echo", "logged in"}}
		await.Until(t, "ssh logs in through HAProxy, whose health check must succeed first", func() bool {
			output, _ := lab.Run(t, client.On(ssh))
			return strings.Contains(output, "logged in")
		})
		sshd.WaitLine(t, "Accepted publickey for root from 203.0.113.9 ")
	})
}

// container is a service of the compose file with its root file system and network.
type container struct {
	service string
	root    string
	pod     *lab.Host
}

// contained returns the command of a service, with the rights that the file grants.
func contained(t testing.TB, project *types.Project, c container) lab.Command {
	t.Helper()
	s := project.Services[c.service]
	uid, err := strconv.Atoi(s.User)
	if err != nil {
		t.Fatal(err)
	}
	command := lab.Command{Name: "/unproxy", Dir: "/", Args: s.Command, Limit: true, Container: &lab.Container{
		Root: lab.ReadOnly(t, c.root, nil), UID: uid, NoNewPrivileges: true, Host: c.pod}}
	for key, value := range s.Environment {
		command.Env = append(command.Env, key+"="+*value)
	}
	for _, name := range s.CapAdd {
		command.Capabilities = append(command.Capabilities, capability(t, name))
	}
	return command
}

// capability returns the number of a capability, as container engines name it.
func capability(t testing.TB, name string) uintptr {
	t.Helper()
	number, ok := map[string]uintptr{"NET_RAW": unix.CAP_NET_RAW, "NET_ADMIN": unix.CAP_NET_ADMIN}[name]
	if !ok {
		t.Fatalf("no container here needs the capability %s", name)
	}
	return number
}

// wantCapabilities checks the effective capabilities of a process, and that it can get no
// others.
func wantCapabilities(t testing.TB, p *lab.Process, mask uint64) {
	t.Helper()
	status := readFile(t, filepath.Join("/proc", strconv.Itoa(p.PID()), "status"))
	for _, key := range []string{"CapEff", "CapBnd"} {
		_, after, _ := strings.Cut(status, key+":\t")
		if got, err := strconv.ParseUint(after[:16], 16, 64); err != nil || key == "CapEff" && got != mask || got&^mask != 0 {
			t.Errorf("%s is %.16s, want %016x", key, after, mask)
		}
	}
	if !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Error("the process can get new privileges")
	}
}

func address(project *types.Project, service string) string {
	return project.Services[service].Networks["lb"].Ipv4Address
}

// podOf returns the network of sshd and the gateway, joined with HAProxy's.
func podOf(t testing.TB, project *types.Project) *lab.Host {
	t.Helper()
	pod := lab.NewHost(t, "pod", address(project, "sshd")+"/24")
	netns.IP(t, "address add "+address(project, "haproxy")+"/24 dev pod")
	pod.IP(t, "route add default via "+address(project, "haproxy"))
	return pod
}

// sshdOn starts a real sshd on port 22 of the host, and returns a key for root.
func sshdOn(t testing.TB, pod *lab.Host) (p *lab.Process, identity string) {
	t.Helper()
	dir := t.TempDir()
	identity = filepath.Join(dir, "identity")
	lab.Shell(t, `mount -t tmpfs none /run
		mkdir -p /run/sshd
		for key in host identity; do ssh-keygen -q -t ed25519 -N "" -f `+dir+`/$key; done`)
	config := lab.WriteFile(t, "sshd_config", strings.Join([]string{
		"HostKey " + dir + "/host", "AuthorizedKeysFile " + identity + ".pub", "PidFile none", "StrictModes no",
		"UsePAM no", "UseDNS no", "PermitRootLogin yes", "LogLevel VERBOSE"}, "\n")+"\n")
	p = lab.Start(t, pod.On(lab.Command{Name: "/usr/sbin/sshd", Args: []string{"-D", "-e", "-f", config}}))
	p.WaitLine(t, "Server listening on")
	return p, identity
}

// The image runs as its own user without any capability and a read-only root: headers are
// stripped. Transparent mode is refused, with a hint, instead of degrading.
func TestImageAsUser(t *testing.T) {
	t.Parallel()
	root := image(t)
	netns.RunAsRoot(t, func(t *testing.T) {
		command := lab.Command{Name: "/unproxy", Dir: "/", Limit: true, Container: &lab.Container{
			Root: lab.ReadOnly(t, root, nil), UID: 65532, NoNewPrivileges: true}}
		command.Env = []string{"UNPROXY_FORWARD=127.0.0.1:2000=127.0.0.1:3000", "UNPROXY_TRUST=127.0.0.1",
			"UNPROXY_HEALTH=127.0.0.1:9181"}
		backend := lab.Listen(t, "127.0.0.1:3000")
		p := lab.Start(t, command)
		p.WaitLine(t, `"message":"ready"`)
		wantCapabilities(t, p, 0)
		conn := lab.Send(t, "127.0.0.1:2000", lab.V2(netip.MustParseAddrPort("192.0.2.9:4711"),
			netip.MustParseAddrPort("198.51.100.1:443")), []byte("hello"))
		defer conn.Close()
		got := make([]byte, 5)
		if n, err := backend.Next(t).Read(got); err != nil || string(got[:n]) != "hello" {
			t.Errorf("the backend read %q, %v", got[:n], err)
		}
		command.Args = []string{"healthcheck"}
		lab.Must(t, command)

		command.Args = nil
		command.Env = []string{"UNPROXY_FORWARD=127.0.0.1:2001=127.0.0.1:3000", "UNPROXY_TRUST=127.0.0.1", "UNPROXY_TRANSPARENT=on"}
		output, code := lab.Run(t, command)
		if code == 0 || !strings.Contains(output, "CAP_NET_RAW") {
			t.Errorf("transparent mode without the capability: exit code %d:\n%s", code, output)
		}
	})
}

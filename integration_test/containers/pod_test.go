package containers_test

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

func seconds(t testing.TB, duration string) int64 {
	t.Helper()
	if duration == "" {
		return 0
	}
	d, err := time.ParseDuration(duration)
	if err != nil {
		t.Fatal(err)
	}
	return int64(d / time.Second)
}

var (
	client = netip.MustParseAddrPort("203.0.113.9:4711")
	server = netip.MustParseAddrPort("198.51.100.1:22")
)

// running is a pod's network with what its containers share.
type running struct {
	*lab.Host
	root  string // of the image
	trust string // the directory of the mounted ConfigMap
}

// newPod returns the network of a pod with the address 10.0.0.20. The test has 10.0.0.2,
// which the trust list contains, and 10.0.0.99, which it does not.
func newPod(t testing.TB, m *manifests, root string) running {
	t.Helper()
	pod := running{Host: lab.NewHost(t, "node", "10.0.0.20/24"), root: root, trust: t.TempDir()}
	netns.IP(t, "address add 10.0.0.2/24 dev node")
	netns.IP(t, "address add 10.0.0.99/24 dev node")
	pod.IP(t, "route add default via 10.0.0.2")
	if err := os.WriteFile(filepath.Join(pod.trust, "trust"), []byte(m.trust.Data["trust"]), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(pod.trust, 0o755)
	return pod
}

// command returns the command of a container in the pod, as a kubelet starts it: the
// image's program, the arguments, variables, user, capabilities and volume. Waits are
// shorter than in the manifest.
func (p running) command(t testing.TB, m *manifests, c core.Container) lab.Command {
	t.Helper()
	uid := m.pod().Spec.SecurityContext.RunAsUser
	if c.SecurityContext.RunAsUser != nil {
		uid = c.SecurityContext.RunAsUser
	}
	command := lab.Command{Name: "/unproxy", Dir: "/", Args: c.Args, Limit: true, Container: &lab.Container{
		Root: lab.ReadOnly(t, p.root, map[string]string{c.VolumeMounts[0].MountPath: p.trust}),
		UID:  int(*uid), NoNewPrivileges: !*c.SecurityContext.AllowPrivilegeEscalation, Host: p.Host}}
	shorter := map[string]string{"UNPROXY_RELOAD_INTERVAL": "100ms", "UNPROXY_DRAIN_DELAY": "1s"}
	for _, e := range c.Env {
		value := e.Value
		if short, ok := shorter[e.Name]; ok {
			value = short
		}
		command.Env = append(command.Env, e.Name+"="+strings.Replace(value, "=ssh:22", "=127.0.0.1:22", 1))
	}
	for _, name := range c.SecurityContext.Capabilities.Add {
		command.Capabilities = append(command.Capabilities, capability(t, string(name)))
	}
	return command
}

// server starts a server on the pod's loopback, as the server's container does.
func (p running) server(t testing.TB) (backend *lab.Backend) {
	t.Helper()
	p.Do(t, func() { backend = lab.Listen(t, "127.0.0.1:22") })
	return backend
}

// probe asks as a kubelet does.
func probe(t testing.TB, p *core.Probe) (status int) {
	t.Helper()
	c := http.Client{Timeout: await.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Get("http://10.0.0.20:9181" + p.HTTPGet.Path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// The sidecar's pod: init containers in their order, the sidecar until its startup probe
// succeeds, then the server. A client's address reaches the server; the ConfigMap is
// replaced; and at the end the server gets SIGTERM first, then the sidecar.
//
//	10.0.0.2 ──header──▶ pod 10.0.0.20:2222 ──from 203.0.113.9──▶ server 127.0.0.1:22
func TestSidecarPod(t *testing.T) {
	t.Parallel()
	root := image(t)
	netns.RunAsRoot(t, func(t *testing.T) {
		m := render(t, "sidecar")
		pod := newPod(t, m, root)
		var gateway *lab.Process
		for _, c := range m.pod().Spec.InitContainers {
			if c.RestartPolicy == nil {
				lab.Must(t, pod.command(t, m, c))
				lab.Must(t, pod.command(t, m, c)) // a kubelet may run it again
				continue
			}
			gateway = lab.Start(t, pod.command(t, m, c))
			await.Until(t, "the startup probe succeeds", func() bool { return probe(t, c.StartupProbe) == http.StatusOK })
		}
		backend := pod.server(t)
		ready := gatewayIn(t, m).ReadinessProbe
		await.Until(t, "the readiness probe succeeds", func() bool { return probe(t, ready) == http.StatusOK })
		wantCapabilities(t, gateway, 1<<unix.CAP_NET_RAW)

		conn := lab.Send(t, "10.0.0.20:2222", lab.V2(client, server), []byte("hello"))
		behind := backend.Next(t)
		if got := lab.Peer(behind); got.Addr() != client.Addr() {
			t.Errorf("the server sees %v, want %v", got, client)
		}
		wantRead(t, behind, "hello")

		refused(t, "10.0.0.99")
		replace(t, pod.trust, "10.0.0.99\n10.0.0.0/28\n")
		await.Until(t, "the new trust list is in force", func() bool { return accepted("10.0.0.99", backend) })
		backend.Next(t).Close()

		// The kubelet runs preStop, stops the server, then the sidecar.
		behind.Close()
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("the client read %q, %v after the server has stopped; want a FIN", rest, err)
		}
		conn.Close()
		gateway.Signal(unix.SIGTERM)
		if code := gateway.Wait(t); code != 0 {
			t.Errorf("the sidecar's exit code is %d", code)
		}
	})
}

// A gateway behind a load balancer or on a node gets SIGTERM while connections are open:
// it is not ready at once, still accepts for the delay, and ends after the last one.
func TestGatewayPodDrains(t *testing.T) {
	for _, overlay := range []string{"loadbalancer", "daemonset"} {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			root := image(t)
			netns.RunAsRoot(t, func(t *testing.T) {
				m := render(t, overlay)
				pod := newPod(t, m, root)
				backend := pod.server(t)
				c := gatewayIn(t, m)
				gateway := lab.Start(t, pod.command(t, m, c))
				await.Until(t, "the readiness probe succeeds", func() bool { return probe(t, c.ReadinessProbe) == http.StatusOK })
				wantCapabilities(t, gateway, 0)
				conn := lab.Send(t, "10.0.0.20:2222", lab.V2(client, server), []byte("hello"))
				behind := backend.Next(t)
				wantRead(t, behind, "hello")
				gateway.Signal(unix.SIGTERM)
				await.Until(t, "it is not ready", func() bool { return probe(t, c.ReadinessProbe) != http.StatusOK })
				if _, err := conn.Write([]byte("still here")); err != nil {
					t.Error(err)
				}
				wantRead(t, behind, "still here")
				conn.Close()
				behind.Close()
				if code := gateway.Wait(t); code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		})
	}
}

// replace replaces the file as a kubelet replaces those of a ConfigMap: by a new file
// under the same name.
func replace(t testing.TB, dir, text string) {
	t.Helper()
	next := filepath.Join(dir, "next")
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "trust")); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t testing.TB, conn io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("read %q, %v; want %q", got[:n], err, want)
	}
}

// dial connects to the gateway from an address and sends a header.
func dial(from string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: await.Patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", "10.0.0.20:2222")
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(await.Patience))
	_, err = conn.Write(lab.V2(client, server))
	return conn, err
}

// refused checks that the gateway resets a connection from the address.
func refused(t testing.TB, from string) {
	t.Helper()
	conn, err := dial(from)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || err == io.EOF {
		t.Errorf("a peer that is not trusted was served: %v", err)
	}
}

// accepted reports whether the gateway serves a connection from the address.
func accepted(from string, backend *lab.Backend) bool {
	before := backend.Accepted()
	conn, err := dial(from)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(make([]byte, 1))
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout() && backend.Accepted() > before
}

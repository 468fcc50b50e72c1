package integration_test

import (
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/cgroup"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// sshd, nginx and Redis name the client in their own logs and answers, and a stranger by
// his own address. All are in the cgroup of the test's tree, and on one host.
func TestTOARealServers(t *testing.T) {
	t.Parallel()
	netns.RunAsRoot(t, func(t *testing.T) {
		lab.Require(t, "sshd", "ssh-keygen", "nginx", "redis-server")
		tree := cgroup.New(t)
		r := &toaRig{gateway: tree.Child(t, "gateway"), server: &cgroup.Group{Path: tree.Path}}
		for _, a := range []string{toaGateway4, toaServer4, toaStranger4} {
			netns.IP(t, "address add "+a+"/32 dev lo")
		}
		r.attach(t, "--from", toaGateway4, "--port", "2222", "--port", "8080", "--port", "6379")
		sshd := lab.StartSSHD(t, toaServer4+":2222")
		_, dir := lab.Nginx(t, `events {}
			http { `+lab.NginxTemporary+` log_format who "$remote_addr:$remote_port"; access_log logs/who who;
			server { listen 10.55.0.2:8080; location / { return 204; } } }`, toaServer4+":8080")
		lab.Redis(t, toaServer4+":6379", "--protected-mode", "no")

		for _, tt := range []struct{ from, client, seen, port string }{
			{toaGateway4, toaClient4, "203.0.113.9", "4711"},
			{toaStranger4, "", toaStranger4, ""},
		} {
			c := toaCall{from: tt.from, client: tt.client, to: toaServer4 + ":2222", line: "SSH-2.0-test\r\n"}
			r.must(t, c)
			sshd.WaitLine(t, "Connection from "+tt.seen+" port "+tt.port)

			c.to, c.line = toaServer4+":8080", "GET / HTTP/1.0\r\n\r\n"
			r.must(t, c)
			lab.WaitFile(t, filepath.Join(dir, "logs/who"), tt.seen+":"+tt.port)

			c.to, c.line = toaServer4+":6379", "CLIENT INFO\r\n"
			conn, _ := r.must(t, c)
			b := make([]byte, 1000)
			if n, err := conn.Read(b); !strings.Contains(string(b[:n]), " addr="+tt.seen+":"+tt.port) {
				t.Errorf("Redis says %q, %v; want addr=%s", b[:n], err, tt.seen)
			}
		}
	})
}

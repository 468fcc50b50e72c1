package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program is one that is measured.
type program struct {
	name    string
	command []string
	headers bool // it expects PROXY headers
}

// programsFor builds and configures what is to be measured.
func programsFor(o options, scratch string) ([]program, error) {
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		return nil, fmt.Errorf("bring lo up: %w", err)
	}
	at, to := fmt.Sprintf("127.0.0.1:%d", udpGatewayPort), fmt.Sprintf("127.0.0.1:%d", udpBackendPort)
	if o.unproxy == "" {
		o.unproxy = filepath.Join(scratch, "unproxy")
		if out, err := exec.Command("go", "build", "-o", o.unproxy, "unproxy").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build unproxy: %w\n%s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	all := []program{
		{"unproxy", []string{o.unproxy, "--forward", "udp://" + at + "=" + to, "--trust", "127.0.0.0/8", "--loops", "1", "--log-level", "error"}, true},
		{"goroutines", []string{self, relayCommand, at, to}, false},
	}
	if o.peer != "" {
		all = append(all, program{"peer", strings.Fields(o.peer), o.peerHeaders})
	}
	nginx, err := nginxFor(scratch, at, to)
	if err != nil {
		fmt.Fprintln(os.Stderr, "without nginx:", err)
		return all, nil
	}
	return append(all, nginx), nil
}

// nginxFor configures nginx's stream proxy, without headers, which it has none of
// for UDP.
func nginxFor(scratch, at, to string) (program, error) {
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		return program{}, err
	}
	path, err := exec.LookPath("nginx")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nginx")
	}
	if err != nil {
		return program{}, err
	}
	config := filepath.Join(scratch, "nginx.conf")
	text := fmt.Sprintf(`load_module %s;
daemon off; master_process off; user root root; pid %s/pid; error_log stderr error;
worker_rlimit_nofile 60000;
events { worker_connections 50000; use epoll; }
stream { server { listen %s udp rcvbuf=4m sndbuf=4m; proxy_pass %s; proxy_timeout 60s; } }
`, module, scratch, at, to)
	return program{"nginx", []string{path, "-p", scratch, "-c", config, "-e", "stderr"}, false}, os.WriteFile(config, []byte(text), 0o644)
}

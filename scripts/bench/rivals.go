package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// nginxStream is the path of the module on Debian.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// haproxyTCP configures HAProxy: one thread unless the variant has more, buffers of 64 KiB and pipes of 1 MiB
// instead of 16 and 64 KiB, which is never slower here, and the client's address in
// transparent mode. A stream needs a pipe for each direction. HAProxy takes as many
// connections as its limit of descriptors permits beside the pipes.
func (c *catalogue) haproxyTCP(e executable, mode string, v variant) (program, error) {
	options := []string{"option splice-auto"}
	if v.splice {
		options = []string{"option splice-request", "option splice-response"}
	}
	if mode == transparent {
		options = append(options, "source 0.0.0.0 usesrc clientip")
	}
	options = append(options, v.rules...)
	threads := max(1, v.threads)
	text := fmt.Sprintf(`global
  nbthread %d
  maxpipes %d
  tune.bufsize 65536
  tune.pipesize 1048576
  %s
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen gateway
  bind %v accept-proxy
  %s
  server backend %v
`, threads, spliced, v.global, gatewayAddress, strings.Join(options, "\n  "), backendAddress)
	config, err := c.write(fmt.Sprintf("haproxy-%s-%d%s", mode, threads, v.name), text)
	return program{e.name + v.name, []string{e.path, "-q", "-db", "-f", config}, true}, err
}

// haproxies returns each HAProxy with each variant.
func (c *catalogue) haproxies(mode string, variants ...variant) (all []program, err error) {
	for _, e := range c.haproxy {
		for _, v := range variants {
			p, err := c.haproxyTCP(e, mode, v)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// spliced is the number of pipes for the largest row: 32 streams in both directions.
const spliced = 80

// nginxTCP configures nginx's stream proxy: one process, buffers of 64 KiB instead of 16
// and multi_accept, which is never slower here, and the client's address in transparent
// mode.
func (c *catalogue) nginxTCP(e executable, mode string) (program, error) {
	bind := ""
	if mode == transparent {
		bind = "proxy_bind $proxy_protocol_addr transparent; "
	}
	return c.nginxWith(e, mode, fmt.Sprintf("listen %v proxy_protocol backlog=4096; proxy_pass %v; "+
		"proxy_timeout 60s; proxy_buffer_size 64k; %s", gatewayAddress, backendAddress, bind), true)
}

// nginxUDP configures nginx's stream proxy without headers, which it does not support for
// UDP.
func (c *catalogue) nginxUDP(e executable) (program, error) {
	return c.nginxWith(e, "udp", fmt.Sprintf("listen %v udp rcvbuf=4m sndbuf=4m; proxy_pass %v; proxy_timeout 60s;",
		gatewayAddress, backendAddress), false)
}

func (c *catalogue) nginxWith(e executable, name, server string, headers bool) (program, error) {
	text := fmt.Sprintf(`load_module %s;
daemon off; master_process off; user root root; pid %s/pid; error_log stderr error;
worker_rlimit_nofile %d;
events { worker_connections %d; use epoll; multi_accept on; }
stream { server { %s } }
`, nginxStream, c.scratch, 2*c.most+64, 2*c.most+64, server)
	config, err := c.write("nginx-"+name, text)
	return program{e.name, []string{e.path, "-p", c.scratch, "-c", config, "-e", "stderr"}, headers}, err
}

// write writes a configuration to the scratch directory.
func (c *catalogue) write(name, text string) (string, error) {
	path := filepath.Join(c.scratch, strings.NewReplacer(" ", "-", ",", "").Replace(name)+".conf")
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// Package gopeers_test sends through load balancers written in Go, built from the versions in
// go.mod: scripts/interop runs it. Everything stays in network namespaces of the tests.
package gopeers_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// programs is the variable with the directory of the senders. The test binary runs again in
// namespaces, and must not build them again.
const programs = "TEST_SENDERS"

func run(m *testing.M) int {
	if os.Getenv(programs) == "" {
		fmt.Fprintln(os.Stderr, "scripts/interop builds the senders and sets "+programs)
		return 1
	}
	return lab.Main(m)
}

// program returns the path of a sender.
func program(name string) string { return filepath.Join(os.Getenv(programs), name) }

const (
	entry   = "127.0.0.1:1000" // where the sender listens
	gateway = "127.0.0.1:2000"
	server  = "127.0.0.1:3000"
)

// sender is a program that adds a header, in one of its modes.
type sender struct {
	name, module, network, header string
	start                         func(t *testing.T, network, header string)
	// named is the destination in the header; the client is always that of the connection.
	named string
}

func senders() []sender {
	const frp, caddy = "github.com/fatedier/frp", "github.com/mholt/caddy-l4"
	return []sender{
		{name: "frp", module: frp, network: "tcp", header: "v1", start: startFRP, named: entry},
		{name: "frp", module: frp, network: "tcp", header: "v2", start: startFRP, named: entry},
		{name: "frp", module: frp, network: "udp", header: "v2", start: startFRP, named: gateway},
		{name: "caddy-l4", module: caddy, network: "tcp", header: "v1", start: startCaddy, named: entry},
		{name: "caddy-l4", module: caddy, network: "tcp", header: "v2", start: startCaddy, named: entry},
		{name: "caddy-l4", module: caddy, network: "udp", header: "v2", start: startCaddy, named: entry},
	}
}

// client 127.0.0.9 ──▶ sender 127.0.0.1:1000 ──header──▶ gateway 127.0.0.1:2000 ──▶ server 127.0.0.1:3000
//
// The gateway knows the client and the destination that the sender names, and data passes.
func TestSenders(t *testing.T) {
	t.Parallel()
	for _, s := range senders() {
		t.Run(s.name+" "+s.network+" "+s.header, func(t *testing.T) {
			t.Parallel()
			netns.Run(t, func(t *testing.T) {
				if s.network == "udp" {
					tryDatagrams(t, s)
				} else {
					tryStream(t, s)
				}
			})
		})
	}
}

func tryStream(t *testing.T, s sender) {
	backend := lab.Listen(t, server)
	g := lab.StartGateway(t, "--forward", gateway+"="+server, "--trust", "127.0.0.1")
	s.start(t, s.network, s.header)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}, Timeout: await.Patience}
	conn, err := dialer.Dial("tcp", entry)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(await.Deadline(t))
	behind := backend.Next(t)
	lab.Exchange(t, conn, behind)
	conn.Close()
	behind.Close()
	line := g.ConnectionOf(t, conn.LocalAddr().String())
	line.Expect(t, "phase", "relay", "version", s.header[1:], "destination", s.named, "command", "proxy")
}

func tryDatagrams(t *testing.T, s sender) {
	backend := lab.ListenUDP(t, server)
	g := lab.StartGateway(t, "--forward", "udp://"+gateway+"="+server, "--trust", "127.0.0.1",
		"--udp-header", "first", "--udp-idle-timeout", "1s")
	s.start(t, s.network, s.header)
	client := lab.ListenUDP(t, "127.0.0.9:4711")
	for _, text := range []string{"one", "two"} {
		client.Send(t, entry, []byte(text))
		backend.Reply(t, backend.Expect(t, text), "re: "+text)
		client.Expect(t, "re: "+text)
	}
	line := g.ConnectionOf(t, client.Addr.String())
	line.Expect(t, "protocol", "udp", "version", "2", "destination", s.named, "datagrams_in", "2", "datagrams_out", "2")
}

// startFRP starts frps and frpc with one proxy.
func startFRP(t *testing.T, network, header string) {
	t.Helper()
	lab.Start(t, lab.Command{Name: program("frps"), Args: []string{"-c",
		lab.WriteFile(t, "frps.toml", "bindAddr = \"127.0.0.1\"\nbindPort = 7000\n")}})
	lab.WaitListening(t, "127.0.0.1:7000")
	p := lab.Start(t, lab.Command{Name: program("frpc"), Args: []string{"-c", lab.WriteFile(t, "frpc.toml", fmt.Sprintf(`
serverAddr = "127.0.0.1"
serverPort = 7000

[[proxies]]
name = "gateway"
type = %q
localIP = "127.0.0.1"
localPort = 2000
remotePort = 1000
transport.proxyProtocolVersion = %q
`, network, header))}})
	p.WaitLine(t, "start proxy success")
}

// startCaddy starts Caddy with its layer 4 app.
func startCaddy(t *testing.T, network, header string) {
	t.Helper()
	home := t.TempDir()
	config := fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"layer4": {"servers": {"gateway": {
  "listen": ["%[1]s/%s"],
  "routes": [{"handle": [{"handler": "proxy", "proxy_protocol": %q, "upstreams": [{"dial": ["%[1]s/%[4]s"]}]}]}]
}}}}}`, network, entry, header, gateway)
	lab.Start(t, lab.Command{Name: program("caddy"), Args: []string{"run", "--config", lab.WriteFile(t, "caddy.json", config)},
		Env: []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home}})
	if network == "udp" {
		lab.WaitReceiving(t, entry)
		return
	}
	lab.WaitListening(t, entry)
}

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/netip"
	"time"

	"unproxy/gateway"
	"unproxy/gateway/accesslog"
	"unproxy/gateway/config"
	"unproxy/gateway/daemon"
)

// patience is how long the demo waits for each step.
const patience = 5 * time.Second

// backend is a server that does not speak the PROXY protocol. It sends first, as
// SSH and SMTP servers do, reads to the end, and records what it saw.
type backend struct {
	listener net.Listener
	visits   chan visit
}

// visit is a connection as seen by the backend.
type visit struct {
	peer    netip.AddrPort // by getpeername(2)
	payload []byte
}

// startBackend starts a backend on a free port of a loopback address.
func startBackend(host string) (*backend, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	b := &backend{listener: l, visits: make(chan visit, 16)}
	go b.serve()
	return b, nil
}

// address returns where the backend listens.
func (b *backend) address() netip.AddrPort { return b.listener.Addr().(*net.TCPAddr).AddrPort() }

// serve serves one connection at a time until the listener is closed.
func (b *backend) serve() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.visits <- b.talk(c)
	}
}

func (b *backend) talk(c net.Conn) visit {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	fmt.Fprintf(c, "220 you are %s\r\n", peer)
	payload, _ := io.ReadAll(io.LimitReader(c, 1<<16)) // on an error, what was received counts
	return visit{netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), payload}
}

// logLine is a line of the gateway's log.
type logLine map[string]any

// text returns the value of a key as text.
func (l logLine) text(key string) string {
	if v, ok := l[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// logReader receives the log lines of connections.
type logReader chan logLine

// Write receives one line.
func (r logReader) Write(line []byte) (int, error) {
	var l logLine
	if err := json.Unmarshal(bytes.TrimSpace(line), &l); err != nil {
		return 0, err
	}
	if l["message"] == "connection" {
		r <- l
	}
	return len(line), nil
}

// stage is a gateway in this process, and its log.
type stage struct {
	at    netip.AddrPort
	lines logReader
	log   *accesslog.Log
	stop  context.CancelFunc
	done  chan error
}

// startStage starts a gateway with the flags of the command line.
func startStage(forward string, settings config.Values) (*stage, error) {
	settings["loops"] = []string{"1"}
	settings["drain-timeout"] = []string{"0"}
	config, _, err := config.Load(config.Source{Forwards: []string{forward}, Settings: settings})
	if err != nil {
		return nil, err
	}
	s := &stage{lines: make(logReader, 64), done: make(chan error, 1)}
	s.log, err = accesslog.New(accesslog.Config{Writer: s.lines, Format: accesslog.JSON, Level: accesslog.Debug})
	if err != nil {
		return nil, err
	}
	stdlog.SetOutput(s.log.Standard())
	g, err := gateway.New(config, gateway.Observer{Connection: s.log.Connection})
	if err != nil {
		s.log.Close()
		return nil, err
	}
	s.at = g.Bound()[0].Addr.Addr
	daemon.SetThreads(1)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.done <- g.Run(ctx) }()
	return s, nil
}

// close stops the gateway and waits for it.
func (s *stage) close() {
	s.stop()
	<-s.done
	s.log.Close()
}

// nextLine returns the log line of the next connection that ends.
func (s *stage) nextLine() (logLine, error) {
	select {
	case l := <-s.lines:
		return l, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("the gateway logged nothing for %v", patience)
	}
}

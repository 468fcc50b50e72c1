package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"unproxy/gateway"
	"unproxy/gateway/accesslog"
	"unproxy/gateway/config"
)

// patience is how long the demo waits for anything.
const patience = 5 * time.Second

// oldServer is a server that knows nothing of PROXY headers. It speaks first,
// as SSH and SMTP do, reads until its client is done, and remembers.
type oldServer struct {
	listener net.Listener
	visits   chan visit
}

// visit is what the old server saw of one connection.
type visit struct {
	peer    netip.AddrPort // as getpeername(2) has it
	payload []byte
}

// startOldServer starts a server on a free port of a loopback address.
func startOldServer(host string) (*oldServer, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	s := &oldServer{listener: l, visits: make(chan visit, 16)}
	go s.serve()
	return s, nil
}

// address returns where the server listens.
func (s *oldServer) address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

// serve takes one connection after the other until the listener is closed.
func (s *oldServer) serve() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.visits <- s.talk(c)
	}
}

func (s *oldServer) talk(c net.Conn) visit {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	fmt.Fprintf(c, "220 you are %s\r\n", peer)
	payload, _ := io.ReadAll(io.LimitReader(c, 1<<16)) // what came before an error is what it saw
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

// logReader receives the lines of a log that are of connections.
type logReader chan logLine

// Write takes one line.
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

// stage is a gateway that runs within this process, and its log.
type stage struct {
	at    netip.AddrPort
	lines logReader
	log   *accesslog.Log
	stop  context.CancelFunc
	done  chan error
}

// startStage starts a gateway from the words of the command line.
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
	g, err := gateway.New(config, gateway.Observer{Connection: s.log.Connection})
	if err != nil {
		s.log.Close()
		return nil, err
	}
	s.at = g.Bound()[0].Addr.Addr
	threads(1)
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

// nextLine returns the line of the connection that ends next.
func (s *stage) nextLine() (logLine, error) {
	select {
	case l := <-s.lines:
		return l, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("the gateway logged nothing for %v", patience)
	}
}

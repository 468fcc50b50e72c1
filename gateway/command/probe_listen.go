package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
)

// echoServer is the backend of probe --listen.
type echoServer struct {
	network, address string
	banner           []byte
	count            int // connections to serve; 0 is no limit
	out              io.Writer
}

// newEchoServer reads the flags, and finds all that is wrong with them.
func newEchoServer(c *cli.Context) (*echoServer, error) {
	problems := misplaced(c, connectFlags, "does not go with --listen")
	network, address, err := probeEndpoint(c, "listen")
	if err == nil && c.String("listen") == "" {
		err = usage.Errorf("probe: --listen is empty").WithHint("write it as 127.0.0.1:9000")
	}
	banner, bannerErr := unescape("banner", c.String("banner"))
	count := c.Int("count")
	if c.Bool("once") {
		count = 1
	}
	if c.IsSet("count") && (c.Int("count") < 1 || c.Bool("once")) {
		problems = append(problems, usage.Errorf("probe: --count %d: at least 1, and not together with --once", c.Int("count")))
	}
	problems = append(problems, err, bannerErr)
	return &echoServer{network: network, address: address, banner: banner, count: count, out: c.App.Writer}, errors.Join(problems...)
}

// run serves until ctx is done or the count is reached, and returns when the
// last connection has ended.
func (s *echoServer) run(ctx context.Context) error {
	if s.network == "udp" {
		return s.echoDatagrams(ctx)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	fmt.Fprintf(s.out, "listening on %s\n", listener.Addr())
	var connections sync.WaitGroup
	defer connections.Wait()
	for served := 0; s.count == 0 || served < s.count; served++ {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "connection from %s to %s\n", endName(conn.RemoteAddr()), endName(conn.LocalAddr()))
		connections.Go(func() { s.echo(ctx, conn.(stream)) })
	}
	return nil
}

// echo sends back what it receives, up to the end of either. Errors are the
// other side's affair: the next connection is as good as any.
func (s *echoServer) echo(ctx context.Context, conn stream) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(s.banner); err != nil {
		return
	}
	if _, err := io.Copy(conn, conn); err != nil {
		return
	}
	conn.CloseWrite()
}

// endName names one end of a connection; that of a unix socket often has no
// name of its own.
func endName(a net.Addr) string {
	if end := addrPort(a); end.IsValid() {
		return end.String()
	}
	if a.String() == "" || a.String() == "@" {
		return "a unix socket"
	}
	return "unix:" + a.String()
}

package probe

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

// backend is what probe --listen runs: an echo server.
type backend struct {
	network, address string
	banner           []byte
	count            int // connections to serve; 0 is no limit
	out              io.Writer
}

// readBackend parses the flags. It reports all problems at once.
func readBackend(c *cli.Context) (*backend, error) {
	problems := misplaced(c, connectFlags, "cannot be combined with --listen")
	network, address, err := readEndpoint(c, "listen")
	if err == nil && c.String("listen") == "" {
		err = usage.Errorf("--listen is empty").WithHint("write it as 127.0.0.1:9000")
	}
	banner, bannerErr := unescape("banner", c.String("banner"))
	count := c.Int("count")
	if c.Bool("once") {
		count = 1
	}
	if c.IsSet("count") && (c.Int("count") < 1 || c.Bool("once")) {
		problems = append(problems, usage.Errorf("--count %d is less than 1, or given with --once", c.Int("count")))
	}
	b := &backend{network: network, address: address, banner: banner, count: count, out: c.App.Writer}
	return b, errors.Join(append(problems, err, bannerErr)...)
}

// run serves until ctx is done or count is reached. It returns when the last
// connection has ended.
func (b *backend) run(ctx context.Context) error {
	if b.network == "udp" {
		return b.echoDatagrams(ctx)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, b.network, b.address)
	if err != nil {
		return err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	fmt.Fprintf(b.out, "listening on %s\n", listener.Addr())
	var connections sync.WaitGroup
	defer connections.Wait()
	for served := 0; b.count == 0 || served < b.count; served++ {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "connection from %s to %s\n", endName(conn.RemoteAddr()), endName(conn.LocalAddr()))
		connections.Go(func() { b.echo(ctx, conn.(stream)) })
	}
	return nil
}

// echo sends back what it receives until either direction ends. An error ends
// the connection only.
func (b *backend) echo(ctx context.Context, conn stream) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(b.banner); err != nil {
		return
	}
	if _, err := io.Copy(conn, conn); err != nil {
		return
	}
	conn.CloseWrite()
}

// endName formats the address of one end of a connection. A unix socket often has none.
func endName(a net.Addr) string {
	if end := addrPort(a); end.IsValid() {
		return end.String()
	}
	if a.String() == "" || a.String() == "@" {
		return "a unix socket"
	}
	return "unix:" + a.String()
}

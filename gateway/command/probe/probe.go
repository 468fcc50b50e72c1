// Package probe implements "unproxy probe". It acts as a load balancer, which sends one
// PROXY header and reports the result, or with --listen as the backend of a gateway.
package probe

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
)

const description = `Acts as a load balancer: connects to a gateway, sends a PROXY header and a
payload, and reports what comes back, how long it takes and how it ends. It opens
one connection at a time.

With --listen it acts as the backend behind the gateway: it prints a line for each
connection, with the address that connected, and sends back what it receives until
it is interrupted. In transparent mode that address is the client's.

By default the header is version 2, command PROXY; --v1, --local, --unknown, --spp
and --no-header change that. With --udp, header and payload are one datagram.
Without --as and --dst the header names addresses reserved for documentation, and
the destination of the connection if it is of the same family.

TLVs: --tlv TYPE=VALUE. TYPE is a number such as 0x02, or one of
  alpn authority crc32c noop unique_id netns ssl
  ssl_version ssl_cn ssl_cipher ssl_sig_alg ssl_key_alg ssl_group
  ssl_sig_scheme ssl_client_cert (all in one SSL TLV)
  aws (endpoint ID)  azure (link ID)  gcp (connection ID)  alibaba
VALUE is text, or hex after 0x or hex:. Values are sent unchecked, so that wrong
headers can be tested; --crc adds a correct checksum.

Exit codes: 0 an answer came, or the connection was closed normally; 1 it was
refused, reset or timed out before any answer; 2 usage error.

Examples:
  # a client from outside; the gateway must trust this host
  unproxy probe --to 127.0.0.1:8443 --as 203.0.113.9:4711

  # a server that speaks first, such as SSH or SMTP
  unproxy probe --to 127.0.0.1:2222 --send ''

  # an HTTP request with the header of AWS PrivateLink
  unproxy probe --to 127.0.0.1:8080 --tlv aws=vpce-0123456789abcdef0 --crc \
      --send 'GET / HTTP/1.0\r\n\r\n'

  # a health check; a header that arrives byte by byte
  unproxy probe --to 127.0.0.1:8443 --local
  unproxy probe --to 127.0.0.1:8443 --v1 --split 1

  # a datagram, for a forward such as udp://:5000
  unproxy probe --udp --to 127.0.0.1:5000 --as 203.0.113.9:4711 --send hello

  # the backend
  unproxy probe --listen 127.0.0.1:9000`

// Command returns "unproxy probe".
func Command() *cli.Command {
	return &cli.Command{
		Name:        "probe",
		Usage:       "act as a load balancer or a backend, and report what happens",
		UsageText:   "unproxy probe --to HOST:PORT [flags]\n       unproxy probe --listen HOST:PORT [flags]",
		Description: description,
		Flags:       flags(),
		Action:      run,
	}
}

func flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "to", Usage: "connect to the gateway at `ADDR`: HOST:PORT or unix:PATH"},
		&cli.StringFlag{Name: "as", Usage: "the client: the source in the header, `IP[:PORT]`"},
		&cli.StringFlag{Name: "dst", Usage: "the destination in the header, `IP[:PORT]`"},
		&cli.BoolFlag{Name: "v1", Usage: "send a version 1 header"},
		&cli.BoolFlag{Name: "v2", Usage: "send a version 2 header (the default)"},
		&cli.BoolFlag{Name: "local", Usage: "send LOCAL, as a health check does"},
		&cli.BoolFlag{Name: "unknown", Usage: "send v1 UNKNOWN or v2 UNSPEC, which name no client"},
		&cli.BoolFlag{Name: "udp", Usage: "send a datagram instead of connecting; with --listen: send each datagram back"},
		&cli.BoolFlag{Name: "spp", Usage: "with --udp: send the header of the Simple Proxy Protocol"},
		&cli.BoolFlag{Name: "no-header", Usage: "send only the payload"},
		&cli.StringSliceFlag{Name: "tlv", Usage: "add a TLV, `TYPE=VALUE`; repeatable"},
		&cli.BoolFlag{Name: "crc", Usage: "add a correct CRC32C"},
		&cli.IntFlag{Name: "split", Usage: "send the header in pieces of `N` bytes"},
		&cli.StringFlag{Name: "send", Value: `hello from unproxy probe\r\n`,
			Usage: "`TEXT` the payload, with escapes such as \\r\\n and \\x00"},
		&cli.StringFlag{Name: "send-file", Usage: "send the contents of `PATH` as the payload"},
		&cli.BoolFlag{Name: "half-close",
			Usage: "close the sending direction after the payload, and wait for the other side to close its own"},
		&cli.DurationFlag{Name: "timeout", Value: 5 * time.Second,
			Usage: "wait `D` for the connection, and again for each answer"},
		&cli.IntFlag{Name: "count", Usage: "make `N` connections, one after another; with --listen: stop after N"},
		&cli.StringFlag{Name: "listen", Usage: "act as the backend at `ADDR`: HOST:PORT or unix:PATH"},
		&cli.BoolFlag{Name: "once", Usage: "with --listen: stop after one connection"},
		&cli.StringFlag{Name: "banner", Usage: "with --listen: send `TEXT` first, with escapes such as \\r\\n"},
	}
}

func run(c *cli.Context) error {
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if c.IsSet("listen") {
		b, err := readBackend(c)
		if err != nil {
			return err
		}
		return b.run(ctx)
	}
	p, err := readPlan(c)
	if err != nil {
		return err
	}
	return probeAll(ctx, c, p)
}

// probeAll makes the connections of the plan, one after another. It fails if one
// of them did.
func probeAll(ctx context.Context, c *cli.Context, p *plan) error {
	answered := 0
	for i := range p.count {
		if p.count > 1 {
			fmt.Fprintf(c.App.Writer, "probe        %d of %d\n", i+1, p.count)
		}
		result := p.run(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("probe %s: interrupted", p.address)
		}
		result.print(c.App.Writer, p)
		if !result.failed() {
			answered++
		}
		if p.count > 1 {
			fmt.Fprintln(c.App.Writer)
		}
	}
	if p.count > 1 {
		fmt.Fprintf(c.App.Writer, "summary      %d of %d succeeded\n", answered, p.count)
	}
	if answered < p.count {
		return usage.Reported(usage.ExitFailure)
	}
	return nil
}

package command

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

const probeHelp = `Is a load balancer: connects to a gateway, sends a PROXY header and a payload,
and says what comes back, how long it takes, and how it ends. It opens one
connection after the other and never more than --count says.

With --listen it is the backend behind the gateway instead: it prints a line
for each connection with the address that connected, which in transparent mode
is the client's, and sends back what it receives until it is interrupted.

The header is version 2, PROXY, unless --v1, --local, --unknown, --spp or
--no-header say otherwise. With --udp it goes in one datagram with the payload. Addresses that are not given are the connection's destination,
and addresses reserved for documentation.

TLVs: --tlv TYPE=VALUE. TYPE is a number, 0x02, or one of
  alpn authority crc32c noop unique_id netns ssl
  ssl_version ssl_cn ssl_cipher ssl_sig_alg ssl_key_alg ssl_group
  ssl_sig_scheme ssl_client_cert (collected in one SSL TLV)
  aws (an endpoint's id)  azure (a link's)  gcp (a connection's)
VALUE is text, or hex after 0x or hex:. Values are sent as they are, so that a
header can be made wrong on purpose; --crc adds the right checksum.

Exit code 0: something came back, or the connection was closed in an orderly
way. 1: it was refused or reset, or timed out, before anything came back.

Examples:
  # a client from outside; the gateway's trust list must admit this host
  unproxy probe --to 127.0.0.1:8443 --as 203.0.113.9:4711

  # a server that speaks first, such as SSH or SMTP
  unproxy probe --to 127.0.0.1:2222 --send ''

  # an HTTP request with the header of AWS PrivateLink
  unproxy probe --to 127.0.0.1:8080 --tlv aws=vpce-0123456789abcdef0 --crc --send 'GET / HTTP/1.0\r\n\r\n'

  # a health check; a header that arrives byte by byte
  unproxy probe --to 127.0.0.1:8443 --local
  unproxy probe --to 127.0.0.1:8443 --v1 --split 1

  # a datagram, such as for udp://:5000
  unproxy probe --udp --to 127.0.0.1:5000 --as 203.0.113.9:4711 --send hello

  # the backend
  unproxy probe --listen 127.0.0.1:9000`

// probeCommand is "unproxy probe".
func probeCommand() *cli.Command {
	return &cli.Command{
		Name:        "probe",
		Usage:       "be a load balancer, or the backend, and say what happens",
		UsageText:   "unproxy probe --to HOST:PORT [flags]\n       unproxy probe --listen HOST:PORT [flags]",
		Description: probeHelp,
		Flags:       probeFlags(),
		Action:      probe,
	}
}

func probeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "to", Usage: "connect to the gateway at `ADDR`: HOST:PORT or unix:PATH"},
		&cli.StringFlag{Name: "as", Usage: "the client: the source in the header, `IP[:PORT]`"},
		&cli.StringFlag{Name: "dst", Usage: "the destination in the header, `IP[:PORT]`"},
		&cli.BoolFlag{Name: "v1", Usage: "send a version 1 header"},
		&cli.BoolFlag{Name: "v2", Usage: "send a version 2 header (the default)"},
		&cli.BoolFlag{Name: "local", Usage: "send LOCAL, as a health check does"},
		&cli.BoolFlag{Name: "unknown", Usage: "send v1 UNKNOWN or v2 UNSPEC, which name no client"},
		&cli.BoolFlag{Name: "udp", Usage: "send a datagram instead of connecting; with --listen: send each datagram back"},
		&cli.BoolFlag{Name: "spp", Usage: "with --udp: the header of the Simple Proxy Protocol"},
		&cli.BoolFlag{Name: "no-header", Usage: "send the payload alone"},
		&cli.StringSliceFlag{Name: "tlv", Usage: "add a TLV, `TYPE=VALUE`; repeatable"},
		&cli.BoolFlag{Name: "crc", Usage: "add a CRC32C"},
		&cli.IntFlag{Name: "split", Usage: "send the header in pieces of `N` bytes"},
		&cli.StringFlag{Name: "send", Usage: "the payload, `TEXT` with escapes such as \\r\\n and \\x00", Value: `hello from unproxy probe\r\n`},
		&cli.StringFlag{Name: "send-file", Usage: "the payload is the contents of `PATH`"},
		&cli.BoolFlag{Name: "half-close", Usage: "end the sending side after the payload and wait for the other side to end its own"},
		&cli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "wait `D` for the connection, and again for each answer"},
		&cli.IntFlag{Name: "count", Usage: "make `N` connections, one after the other; with --listen: stop after N"},
		&cli.StringFlag{Name: "listen", Usage: "be the backend at `ADDR`: HOST:PORT or unix:PATH"},
		&cli.BoolFlag{Name: "once", Usage: "with --listen: stop after one connection"},
		&cli.StringFlag{Name: "banner", Usage: "with --listen: send `TEXT` first, with escapes such as \\r\\n"},
	}
}

func probe(c *cli.Context) error {
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if c.IsSet("listen") {
		echo, err := newEchoServer(c)
		if err != nil {
			return err
		}
		return echo.run(ctx)
	}
	plan, err := newProbePlan(c)
	if err != nil {
		return err
	}
	return probeAll(ctx, c, plan)
}

// probeAll makes the plan's connections, one after the other. It fails if one
// of them did.
func probeAll(ctx context.Context, c *cli.Context, plan *probePlan) error {
	answered := 0
	for i := range plan.count {
		if plan.count > 1 {
			fmt.Fprintf(c.App.Writer, "probe        %d of %d\n", i+1, plan.count)
		}
		result := plan.run(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("probe %s: interrupted", plan.address)
		}
		result.print(c.App.Writer, plan)
		if !result.failed() {
			answered++
		}
		if plan.count > 1 {
			fmt.Fprintln(c.App.Writer)
		}
	}
	if plan.count > 1 {
		fmt.Fprintf(c.App.Writer, "summary      %d of %d went well\n", answered, plan.count)
	}
	if answered < plan.count {
		return usage.Reported(usage.ExitFailure)
	}
	return nil
}

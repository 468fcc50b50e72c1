package probe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// plan is the parsed command line of a probe.
type plan struct {
	network, address string // as net.Dial takes them
	kind             headerKind
	// client and destination are the addresses in the header. An invalid one was not
	// given; it is derived from the connection.
	client, destination netip.AddrPort
	tlvs                []proxyproto.TLV
	checksum            bool
	split               int // bytes in a piece of the header; 0 is one piece
	payload             []byte
	halfClose           bool
	timeout             time.Duration
	count               int

	// quiet is the time without data after which an answer counts as complete. pause
	// is the time between the pieces of a header.
	quiet, pause time.Duration
}

// isDatagram reports whether the probe sends a datagram instead of connecting.
func (p *plan) isDatagram() bool { return p.network == "udp" }

// The flags of either mode; --count and --udp belong to both.
var (
	connectFlags = []string{"to", "as", "dst", "v1", "v2", "local", "unknown", "no-header", "tlv", "crc", "split",
		"send", "send-file", "half-close", "timeout", "spp"}
	listenFlags = []string{"listen", "once", "banner"}
)

// exclusive are flags that cannot be given together.
var exclusive = [][]string{
	{"v1", "v2", "local", "no-header"},
	{"v1", "tlv"}, {"v1", "crc"}, {"v2", "no-header"},
	{"local", "unknown", "as"}, {"local", "dst"}, {"unknown", "dst"},
	{"no-header", "as"}, {"no-header", "dst"}, {"no-header", "unknown"},
	{"no-header", "tlv"}, {"no-header", "crc"}, {"no-header", "split"},
	{"send", "send-file"},
	{"udp", "v1"}, {"udp", "split"}, {"udp", "half-close"},
	{"spp", "v2", "local", "unknown", "no-header"}, {"spp", "v1"}, {"spp", "tlv"}, {"spp", "crc"},
}

// isGiven reports whether a flag is given. A switch that is off does not count.
func isGiven(c *cli.Context, name string) bool { return c.IsSet(name) && c.Value(name) != false }

// readPlan parses the flags. It reports all problems at once.
func readPlan(c *cli.Context) (*plan, error) {
	p := &plan{
		kind: kindOf(c), checksum: c.Bool("crc"), halfClose: c.Bool("half-close"),
		split: c.Int("split"), timeout: c.Duration("timeout"), count: max(1, c.Int("count")),
		quiet: 250 * time.Millisecond, pause: 10 * time.Millisecond,
	}
	var endpoint, client, destination, tlvs, payload error
	p.network, p.address, endpoint = readEndpoint(c, "to")
	p.client, client = readEnd("as", c.String("as"), 4711)
	p.destination, destination = readEnd("dst", c.String("dst"), 443)
	p.tlvs, tlvs = readTLVs(c.StringSlice("tlv"))
	p.payload, payload = readPayload(c)
	problems := slices.Concat(misplaced(c, listenFlags, "needs --listen"), conflicts(c), checkNumbers(c),
		[]error{endpoint, client, destination, tlvs, payload})
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if _, _, err := p.header(netip.AddrPort{}); err != nil {
		return nil, usage.Errorf("%v", err) // its TLVs are too long
	}
	return p, nil
}

// checkNumbers returns a problem for each number that is out of range.
func checkNumbers(c *cli.Context) []error {
	var problems []error
	for _, name := range []string{"split", "count"} {
		if c.IsSet(name) && c.Int(name) < 1 {
			problems = append(problems, usage.Errorf("--%s %d is less than 1", name, c.Int(name)))
		}
	}
	if d := c.Duration("timeout"); d <= 0 {
		problems = append(problems, usage.Errorf("--timeout %v is not more than 0", d))
	}
	return problems
}

// misplaced returns a problem for each of names that is given.
func misplaced(c *cli.Context, names []string, why string) []error {
	var problems []error
	for _, name := range names {
		if c.IsSet(name) {
			problems = append(problems, usage.Errorf("--%s %s", name, why))
		}
	}
	return problems
}

// conflicts returns a problem for each combination of flags that is not allowed.
func conflicts(c *cli.Context) []error {
	var problems []error
	if !c.IsSet("to") {
		problems = append(problems, usage.Errorf("--to is missing").
			WithHint("unproxy probe --to HOST:PORT connects to a gateway, unproxy probe --listen HOST:PORT is a backend"))
	}
	if c.Bool("spp") && !c.Bool("udp") {
		problems = append(problems, usage.Errorf("--spp needs --udp").WithHint("add --udp"))
	}
	for _, names := range exclusive {
		given := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !isGiven(c, name) })
		if len(given) > 1 {
			problems = append(problems, usage.Errorf("--%s exclude each other", strings.Join(given, " and --")).
				WithHint("give one of them"))
		}
	}
	return problems
}

// readEndpoint parses HOST:PORT or unix:PATH for net.Dial and net.Listen. It accepts an
// empty text.
func readEndpoint(c *cli.Context, flag string) (network, address string, err error) {
	text := c.String(flag)
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		if c.Bool("udp") {
			return "", "", usage.Errorf("--%s %q is a unix socket, but --udp is given", flag, text).
				WithHint("write HOST:PORT, or leave out --udp")
		}
		return "unix", path, nil
	}
	_, port, err := net.SplitHostPort(text)
	if text != "" && (err != nil || port == "") {
		return "", "", usage.Errorf("--%s %q is neither HOST:PORT nor unix:PATH", flag, text).
			WithHint("write it as 127.0.0.1:8443, [::1]:8443 or unix:/run/gateway.sock")
	}
	if c.Bool("udp") {
		return "udp", text, nil
	}
	return "tcp", text, nil
}

func readPayload(c *cli.Context) ([]byte, error) {
	if c.IsSet("send-file") {
		return os.ReadFile(c.String("send-file"))
	}
	return unescape("send", c.String("send"))
}

// unescape replaces the escapes of a Go string: \r, \n, \t, \0xx, \xHH, \\ and so on.
// Quotes need no escape.
func unescape(flag, text string) ([]byte, error) {
	b := make([]byte, 0, len(text))
	for rest := text; rest != ""; {
		if rest[0] != '\\' {
			b, rest = append(b, rest[0]), rest[1:]
			continue
		}
		r, wide, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			return nil, usage.Errorf("--%s %q: bad escape at %q", flag, text, rest).
				WithHint(`valid escapes are \r \n \t \\ \x00 and \u00e9`)
		}
		if wide {
			b = append(b, string(r)...)
		} else {
			b = append(b, byte(r))
		}
		rest = tail
	}
	return b, nil
}

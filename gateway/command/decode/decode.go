// Package decode implements "unproxy decode", which explains a PROXY protocol header,
// or why the gateway would refuse it. Other commands print TLVs with [PrintTLV].
package decode

import (
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/proxyproto"
)

const description = `Decodes the PROXY protocol header at the beginning of the input, by the same
rules as the gateway. It prints what the header says, or why and at which byte
it is refused.

The input comes from --hex, from --file or from standard input. A file or
standard input of hexadecimal digits alone, with white space, colons, commas and
the prefixes 0x and \x between them, is decoded as hex. --raw turns that off.

Exit codes: 0 a complete header that the gateway accepts, 1 refused or
incomplete, 2 usage error.

Examples:
  unproxy decode --hex "0d0a0d0a000d0a515549540a 21 11 000c c0000201 c6336402 dc04 01bb"
  printf 'PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n' | unproxy decode
  unproxy decode --json --headers 2 < capture.bin
  unproxy decode --file datagram.bin --datagram --require-checksum`

// Command returns "unproxy decode".
func Command() *cli.Command {
	return &cli.Command{
		Name:        "decode",
		Usage:       "explain a PROXY header, or why it is refused",
		UsageText:   "unproxy decode [--hex DIGITS | --file PATH] [flags]",
		Description: description,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "hex", Usage: "decode these hexadecimal `DIGITS`"},
			&cli.StringFlag{Name: "file", Usage: "decode the contents of `PATH`"},
			&cli.BoolFlag{Name: "raw", Usage: "decode the input as it is, even if it looks like hex"},
			&cli.BoolFlag{Name: "datagram", Usage: "the input is one whole UDP datagram"},
			usage.JSONFlag(),
		}, settingFlags()...),
		Action: run,
	}
}

// headerSettings are the settings of the gateway that determine which headers it
// accepts. They have the same defaults, meanings and messages here.
var headerSettings = []string{"accept", "max-header", "require-checksum", "v1-mixed-families", "headers"}

// settingFlags returns a flag for each of headerSettings.
func settingFlags() []cli.Flag {
	var all []cli.Flag
	for _, s := range config.Settings() {
		switch {
		case !slices.Contains(headerSettings, s.Name):
		case s.Switch:
			all = append(all, &cli.BoolFlag{Name: s.Name, Aliases: s.Names()[1:], Usage: s.Meaning})
		default:
			all = append(all, &cli.StringFlag{Name: s.Name, Usage: "`" + s.Argument + "` " + s.Meaning, Value: s.Default})
		}
	}
	return all
}

func run(c *cli.Context) error {
	options, headers, err := readOptions(c)
	if err != nil {
		return err
	}
	input, err := readInput(c)
	if err != nil {
		return err
	}
	stack := decodeStack(input, headers, options)
	write := writeStack
	if c.Bool("json") {
		write = writeJSON
	}
	if err := write(c.App.Writer, stack); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if last := stack[len(stack)-1]; last.refusal != nil || last.header.Result == proxyproto.Incomplete {
		return usage.Reported(usage.ExitFailure)
	}
	return nil
}

// readOptions returns the options of the decoder and the number of stacked headers. It
// parses the flags as settings of an arbitrary forward. It reports all problems at
// once.
func readOptions(c *cli.Context) (o *proxyproto.Options, headers int, err error) {
	var exclusive error
	if c.IsSet("hex") && (c.IsSet("file") || c.Bool("raw")) {
		exclusive = usage.Errorf("--hex excludes --file and --raw").WithHint("give one of them")
	}
	given := config.Values{"trust": {"127.0.0.1"}}
	for _, name := range headerSettings {
		if c.IsSet(name) {
			given[name] = []string{fmt.Sprint(c.Value(name))}
		}
	}
	config, _, err := config.Load(config.Source{Forwards: []string{"127.0.0.1:1=127.0.0.1:2"}, Settings: given})
	if err := errors.Join(exclusive, err); err != nil {
		return nil, 0, err
	}
	f := config.Forwards[0]
	o = &f.Header
	o.Datagram = c.Bool("datagram")
	return o, f.Headers, nil
}

// decoded is one header of a stack.
type decoded struct {
	input   []byte // from the first byte of the header to the end of the input
	start   int    // the index of that byte in the whole input
	header  proxyproto.Header
	refusal *proxyproto.Error
}

// payload returns what follows the header.
func (d *decoded) payload() []byte { return d.input[d.header.Length:] }

// decodeStack decodes up to n stacked headers as the gateway does. It stops at a LOCAL
// header, and at one that is refused or incomplete. It returns at least one.
func decodeStack(input []byte, n int, o *proxyproto.Options) []decoded {
	var stack []decoded
	start := 0
	for range n {
		d := decoded{input: input[start:], start: start}
		var err error
		d.header, err = proxyproto.Decode(d.input, o)
		errors.As(err, &d.refusal)
		stack = append(stack, d)
		if err != nil || d.header.Result == proxyproto.Incomplete || d.header.Result == proxyproto.Local {
			break
		}
		start += d.header.Length
	}
	return stack
}

package command

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/settings"
)

// maxDecodeInput bounds what decode reads: many times the longest header.
const maxDecodeInput = 64 << 20

const decodeHelp = `Decodes the PROXY protocol header at the beginning of the input, by the same
rules as the gateway, and says what is in it or why and where it is refused.

The input is what --hex or --file names, or else standard input. A file or
standard input that holds nothing but hexadecimal digits, white space, colons,
commas and the prefixes 0x and \x is taken as hex, anything else as the bytes
themselves; --raw takes every input as the bytes themselves.

Exit code 0: a whole header that would be taken. 1: refused, or incomplete.

Examples:
  unproxy decode --hex "0d0a0d0a000d0a515549540a 21 11 000c c0000201 c6336402 dc04 01bb"
  printf 'PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n' | unproxy decode
  unproxy decode --json --headers 2 < capture.bin
  unproxy decode --file datagram.bin --datagram --require-checksum`

// decodeCommand is "unproxy decode".
func decodeCommand() *cli.Command {
	return &cli.Command{
		Name:        "decode",
		Usage:       "say what is in a PROXY header, or why it is refused",
		UsageText:   "unproxy decode [--hex DIGITS | --file PATH] [flags]   (else standard input)",
		Description: decodeHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "hex", Usage: "decode these hexadecimal `DIGITS`"},
			&cli.StringFlag{Name: "file", Usage: "decode the contents of `PATH`"},
			&cli.BoolFlag{Name: "raw", Usage: "the input is the bytes themselves, even if it looks like hex"},
			usage.JSONFlag(),
			&cli.IntFlag{Name: "headers", Value: 1, Usage: "decode `N` stacked headers; the last one counts"},
			&cli.StringFlag{Name: "max-header", Usage: "longest v2 header taken, as `SIZE`", Value: fmt.Sprint(proxyproto.MaxV2)},
			&cli.StringFlag{Name: "accept", Usage: "header `VERSIONS` taken", Value: "v1,v2"},
			&cli.BoolFlag{Name: "require-checksum", Usage: "refuse v2 headers without CRC32C"},
			&cli.BoolFlag{Name: "v1-ipv4-in-tcp6", Usage: "take plain IPv4 addresses on a TCP6 line, as nginx can send them"},
			&cli.BoolFlag{Name: "datagram", Usage: "the input is one whole UDP datagram"},
		},
		Action: decode,
	}
}

func decode(c *cli.Context) error {
	options, err := decodeOptions(c)
	if err != nil {
		return err
	}
	input, err := decodeInput(c)
	if err != nil {
		return err
	}
	stack := decodeStack(input, c.Int("headers"), options)
	if c.Bool("json") {
		err = writeStackJSON(c.App.Writer, stack)
	} else {
		err = writeStack(c.App.Writer, stack)
	}
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if last := stack[len(stack)-1]; last.refusal != nil || last.header.Result == proxyproto.Incomplete {
		return usage.Reported(usage.ExitFailure)
	}
	return nil
}

// decodeOptions reads the flags, and finds all that is wrong with them.
func decodeOptions(c *cli.Context) (*proxyproto.Options, error) {
	o := &proxyproto.Options{
		RequireChecksum: c.Bool("require-checksum"),
		IPv4InTCP6:      c.Bool("v1-ipv4-in-tcp6"),
		Datagram:        c.Bool("datagram"),
	}
	var problems []error
	if c.IsSet("hex") && (c.IsSet("file") || c.Bool("raw")) {
		problems = append(problems, usage.Errorf("decode: --hex excludes --file and --raw").WithHint("give one of them"))
	}
	if n := c.Int("headers"); n < 1 {
		problems = append(problems, usage.Errorf("decode: --headers %d: at least 1", n))
	}
	size, err := settings.Size(c.String("max-header"))
	if err != nil || size < 16 {
		problems = append(problems, usage.Errorf("decode: --max-header %q is not a size of at least 16 bytes", c.String("max-header")).WithHint("write it as 4096, 64k or 16KiB"))
	}
	o.MaxLength = size
	o.RefuseV1, o.RefuseV2 = true, true
	for version := range strings.SplitSeq(c.String("accept"), ",") {
		switch version {
		case "v1":
			o.RefuseV1 = false
		case "v2":
			o.RefuseV2 = false
		default:
			problems = append(problems, usage.Errorf("decode: --accept: %q is no version", version).WithHint("write --accept v1, --accept v2 or --accept v1,v2"))
		}
	}
	return o, errors.Join(problems...)
}

// decodeInput returns the bytes to decode.
func decodeInput(c *cli.Context) ([]byte, error) {
	if c.IsSet("hex") {
		b, err := parseHex(c.String("hex"))
		if err != nil {
			return nil, usage.Errorf("%s", "decode: --hex: "+err.Error()).WithHint(`a header that is text goes to standard input: printf 'PROXY …\r\n' | unproxy decode`)
		}
		return b, nil
	}
	text, err := readDecodeInput(c)
	if err != nil {
		return nil, err
	}
	if c.Bool("raw") || !looksLikeHex(text) {
		return text, nil
	}
	b, err := parseHex(string(text))
	if err != nil {
		return nil, fmt.Errorf("decode the input as hex: %w (--raw takes it as the bytes themselves)", err)
	}
	return b, nil
}

func readDecodeInput(c *cli.Context) ([]byte, error) {
	name, r := "standard input", c.App.Reader
	if path := c.String("file"); c.IsSet("file") {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		name, r = path, f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDecodeInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxDecodeInput {
		return nil, fmt.Errorf("read %s: more than %d MiB; the header is at its beginning, cut the rest off", name, maxDecodeInput>>20)
	}
	return b, nil
}

// hexNoise is what people and tools put between the digits.
var hexNoise = strings.NewReplacer("0x", "", "0X", "", `\x`, "", ":", "", ",", "", " ", "", "\t", "", "\r", "", "\n", "")

// looksLikeHex reports whether text is hexadecimal digits and what people put
// between them. No header looks like that: both signatures hold other bytes.
func looksLikeHex(text []byte) bool {
	rest := strings.Trim(hexNoise.Replace(string(text)), "0123456789abcdefABCDEF")
	return rest == "" && len(bytes.TrimSpace(text)) > 0
}

func parseHex(text string) ([]byte, error) {
	digits := hexNoise.Replace(text)
	for _, r := range digits {
		if !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return nil, fmt.Errorf("%q is not a hexadecimal digit", r)
		}
	}
	if len(digits)%2 != 0 {
		return nil, fmt.Errorf("%d hexadecimal digits: half a byte too many or too few", len(digits))
	}
	return hex.DecodeString(digits)
}

// decoded is one header of a stack.
type decoded struct {
	input   []byte // from the header's first byte to the end
	start   int    // where that is in the whole input
	header  proxyproto.Header
	refusal *proxyproto.Error
}

// payload returns what follows the header.
func (d *decoded) payload() []byte { return d.input[d.header.Length:] }

// decodeStack decodes up to n headers, one behind the other, up to the first
// that is not whole. It returns at least one.
func decodeStack(input []byte, n int, o *proxyproto.Options) []decoded {
	var stack []decoded
	start := 0
	for range n {
		d := decoded{input: input[start:], start: start}
		var err error
		d.header, err = proxyproto.Decode(d.input, o)
		errors.As(err, &d.refusal)
		stack = append(stack, d)
		if err != nil || d.header.Result == proxyproto.Incomplete {
			break
		}
		start += d.header.Length
	}
	return stack
}

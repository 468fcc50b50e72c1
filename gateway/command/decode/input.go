package decode

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
)

// maxInput limits the number of bytes to read. It is much longer than any header.
const maxInput = 64 << 20

// readInput returns the bytes to decode.
func readInput(c *cli.Context) ([]byte, error) {
	if c.IsSet("hex") {
		b, err := parseHex(c.String("hex"))
		if err != nil {
			return nil, usage.Errorf("--hex: %v", err).
				WithHint(`a header in text form goes to standard input: printf 'PROXY …\r\n' | unproxy decode`)
		}
		return b, nil
	}
	text, err := readFile(c)
	if err != nil {
		return nil, err
	}
	if c.Bool("raw") || !looksLikeHex(text) {
		return text, nil
	}
	b, err := parseHex(string(text))
	if err != nil {
		return nil, fmt.Errorf("decode the input as hex: %w (--raw decodes it as it is)", err)
	}
	return b, nil
}

// readFile reads the file that --file names, or standard input.
func readFile(c *cli.Context) ([]byte, error) {
	name, r := "standard input", c.App.Reader
	if path := c.String("file"); c.IsSet("file") {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		name, r = path, f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxInput {
		return nil, fmt.Errorf("read %s: more than %d MiB; the header is at the beginning, cut off the rest",
			name, maxInput>>20)
	}
	return b, nil
}

// hexNoise removes prefixes and separators of hexadecimal digits.
var hexNoise = strings.NewReplacer(
	"0x", "", "0X", "", `\x`, "", ":", "", ",", "", " ", "", "\t", "", "\r", "", "\n", "")

// looksLikeHex reports whether text consists of hexadecimal digits, prefixes and
// separators. No header does: both signatures have other bytes.
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
		return nil, fmt.Errorf("%d hexadecimal digits are not whole bytes", len(digits))
	}
	return hex.DecodeString(digits)
}

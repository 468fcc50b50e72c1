package usage

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Verbatim is the template of a command whose Description is its whole help.
const Verbatim = "{{.Description}}"

// The columns of help texts. MaxColumn is the maximum length of a line.
const (
	MaxColumn     = 96
	meaningColumn = 34
)

// helpOf returns the help of a command: its usage, its description, its
// subcommands and its flags. path is its full name, "unproxy trust list".
// Hidden commands and flags are left out.
func helpOf(c *cli.Command, path string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n\nUsage: %s\n", path, c.Usage, usageLine(c, path))
	if c.Description != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Description)
	}
	if len(c.Subcommands) > 0 {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Subcommands {
			if !sub.Hidden {
				WriteRow(&b, "  "+sub.Name, sub.Usage)
			}
		}
	}
	b.WriteString("\nFlags:\n")
	for _, f := range c.Flags {
		if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() {
			writeFlag(&b, f)
		}
	}
	WriteRow(&b, "  --help, -h", "print this help")
	return b.String()
}

// usageLine returns a summary of the command line.
func usageLine(c *cli.Command, path string) string {
	if c.UsageText != "" {
		return c.UsageText
	}
	line := path + " [flags]"
	if len(c.Subcommands) > 0 {
		line = path + " COMMAND [flags]"
	}
	return strings.TrimSpace(line + " " + c.ArgsUsage)
}

// writeFlag writes the lines of one flag, with its default if it has one.
func writeFlag(b *strings.Builder, f cli.Flag) {
	left := "  " + dashed(f.Names()[0])
	argument, meaning := Describe(f)
	if argument != "" {
		left += " " + argument
	}
	if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() && d.GetValue() != "" && d.GetValue() != "0" {
		meaning += " [" + d.GetValue() + "]"
	}
	WriteRow(b, left, meaning)
}

// Describe returns the argument and the meaning of a flag. Its usage text names the
// argument in backquotes: within a sentence, "make `N` connections", or in front
// of the meaning, "`PATH` a file of rules". The argument is "" for switches, and
// "VALUE" if the text names none.
func Describe(f cli.Flag) (argument, meaning string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "", ""
	}
	text := d.GetUsage()
	meaning = strings.ReplaceAll(text, "`", "")
	if !d.TakesValue() {
		return "", meaning
	}
	parts := strings.SplitN(text, "`", 3)
	if len(parts) < 3 {
		return "VALUE", meaning
	}
	if parts[0] == "" {
		meaning = strings.TrimSpace(parts[2])
	}
	return parts[1], meaning
}

// WriteRow writes two columns, and wraps the right one. If the left column is too wide,
// the right one begins on the next line.
func WriteRow(b *strings.Builder, left, meaning string) {
	if len(left) > meaningColumn-2 {
		fmt.Fprintln(b, left)
		left = ""
	}
	for _, line := range Wrap(meaning, MaxColumn-meaningColumn) {
		fmt.Fprintln(b, strings.TrimRight(fmt.Sprintf("%-*s%s", meaningColumn, left, line), " "))
		left = ""
	}
}

package command

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/config/value"
)

// guard closes the traps of urfave/cli in a command and those below it: what
// is left over after the flags is refused instead of dropped, a wrong flag is
// one line instead of the whole help, and a name that is no command does not
// run the one above it. The command's full name is path and its own.
func guard(c *cli.Command, path string) {
	path += c.Name
	c.HideHelpCommand = true
	c.OnUsageError = usageProblem
	if c.CustomHelpTemplate == "" {
		c.CustomHelpTemplate = commandTemplate
	}
	for _, sub := range c.Subcommands {
		if strings.Contains(path, " ") {
			sub.HelpName = path + " " + sub.Name // the library names those of the program itself
		}
		guard(sub, path+" ")
	}
	run, groups := c.Action, len(c.Subcommands) > 0 && path != c.Name
	switch {
	case groups && run == nil:
		c.Action = needsSubcommand
	case !groups && c.ArgsUsage == "":
		c.Action = func(ctx *cli.Context) error {
			if ctx.NArg() > 0 {
				return stray(ctx)
			}
			return run(ctx)
		}
	}
}

// needsSubcommand is the action of a command that only groups others.
func needsSubcommand(ctx *cli.Context) error {
	names := commandNames(ctx.Command.Subcommands)
	if ctx.NArg() == 0 {
		return usageError{
			fmt.Sprintf("%s needs a command", ctx.Command.HelpName),
			fmt.Sprintf("one of %s, such as: %s %s", strings.Join(names, ", "), ctx.Command.HelpName, names[0]),
		}
	}
	word := ctx.Args().First()
	hint := "the commands are " + strings.Join(names, ", ")
	if near := value.Nearest(word, names); near != "" {
		hint = fmt.Sprintf("did you mean %s %s?", ctx.Command.HelpName, near)
	}
	return usageError{fmt.Sprintf("unknown command %q", value.Shorten(word)), hint}
}

// stray is the mistake of an argument that belongs to no flag. Everything
// behind it was left unread, so nothing of it may take effect.
func stray(ctx *cli.Context) error {
	word := ctx.Args().First()
	commands := commandNames(ctx.App.Commands)
	unexpected := usageError{fmt.Sprintf("unexpected argument %q", value.Shorten(word)), "every value needs its flag before it, see unproxy --help"}
	if near := value.Nearest(word, commands); near != "" && ctx.Command.Name == ctx.App.Name {
		return usageError{fmt.Sprintf("unknown command %q", value.Shorten(word)), "did you mean unproxy " + near + "?"}
	}
	switch {
	case strings.Contains(word, "=") && strings.ContainsAny(word, ":/{"):
		unexpected.hint = "a forward needs its flag: --forward " + quoteArgument(value.Shorten(word))
	case slices.Contains(optionNames(), word):
		unexpected.hint = "did you mean --" + word + "?"
	case isAddress(word):
		unexpected.hint = "a trusted peer needs its flag: --trust " + word
	}
	return unexpected
}

// isAddress tells whether word is an address or a prefix.
func isAddress(word string) bool {
	if _, err := netip.ParsePrefix(word); err == nil {
		return true
	}
	_, err := netip.ParseAddr(word)
	return err == nil
}

// usageProblem turns the errors of package flag into ours.
func usageProblem(ctx *cli.Context, err error, _ bool) error {
	text := err.Error()
	help := "see " + strings.TrimSpace(ctx.Command.HelpName) + " --help"
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		name = strings.TrimPrefix(name, "-")
		hint := help
		if near := value.Nearest(name, flagNames(ctx.Command.Flags)); near != "" {
			hint = "did you mean --" + near + "?"
		}
		return usageError{fmt.Sprintf("unknown flag --%s", value.Shorten(name)), hint}
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usageError{fmt.Sprintf("--%s needs a value", strings.TrimPrefix(name, "-")), help}
	}
	return usageError{text, help}
}

// commandNames returns the names of the commands that help shows.
func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// flagNames returns the long names of flags.
func flagNames(flags []cli.Flag) []string {
	var names []string
	for _, f := range flags {
		for _, name := range f.Names() {
			if len(name) > 1 {
				names = append(names, name)
			}
		}
	}
	return names
}

// quoteArgument writes a word as a shell takes it.
func quoteArgument(word string) string {
	if strings.ContainsAny(word, " ?&{}*$\"'`\\|<>;()#~!") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

package usage

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/config/value"
)

// NewApp returns the application for a root command and its subcommands. Unlike the
// library alone, it
//
//   - rejects arguments that no command reads; the library ignores them and
//     every flag after them,
//   - reports a wrong flag in one line instead of printing the whole help,
//   - rejects an unknown command instead of running the one above it,
//   - returns errors instead of ending the process,
//   - keeps commas in the values of repeatable flags.
//
// It sets the help text of each command that has none, from its description and flags.
func NewApp(root *cli.Command) *cli.App {
	guard(root, root.Name)
	return &cli.App{
		Name:                      root.Name,
		HelpName:                  root.Name,
		Flags:                     root.Flags,
		Commands:                  root.Subcommands,
		Action:                    root.Action,
		Description:               root.Description,
		CustomAppHelpTemplate:     root.CustomHelpTemplate,
		HideVersion:               true, // the library's flag has the alias -v
		HideHelpCommand:           true, // the library's command ends with exit code 3
		DisableSliceFlagSeparator: true,
		OnUsageError:              explainFlagError,
		ExitErrHandler:            func(*cli.Context, error) {},
	}
}

// guard prepares a command and its subcommands. path is the full name of the command.
func guard(c *cli.Command, path string) {
	isRoot := !strings.Contains(path, " ")
	c.HideHelpCommand = true
	c.OnUsageError = explainFlagError
	if c.CustomHelpTemplate == "" {
		c.Description, c.CustomHelpTemplate = helpOf(c, path), Verbatim
	}
	for _, sub := range c.Subcommands {
		if !isRoot {
			sub.HelpName = path + " " + sub.Name // the library sets only those of the root's subcommands
		}
		guard(sub, path+" "+sub.Name)
	}
	run, isGroup := c.Action, len(c.Subcommands) > 0 && !isRoot
	switch {
	case isGroup && run == nil:
		c.Action = needsSubcommand
	case !isGroup && c.ArgsUsage == "" && run != nil:
		c.Action = func(ctx *cli.Context) error {
			if ctx.NArg() > 0 {
				return strayArgument(ctx)
			}
			return run(ctx)
		}
	}
}

// Argument returns the only argument of a command, or "" if there is none. noun is its
// name in messages, such as "address". Argument rejects further arguments, and flags
// after the argument, which the library does not parse.
func Argument(ctx *cli.Context, noun string) (string, error) {
	for _, a := range ctx.Args().Tail() {
		if strings.HasPrefix(a, "-") {
			return "", Errorf("%s comes after the %s", a, noun).WithHint("give flags first, the " + noun + " last")
		}
	}
	if ctx.NArg() > 1 {
		return "", Errorf("more than one %s: %s", noun, strings.Join(ctx.Args().Slice(), " ")).WithHint("give one")
	}
	return ctx.Args().First(), nil
}

// needsSubcommand is the action of a command that only groups others.
func needsSubcommand(ctx *cli.Context) error {
	names := commandNames(ctx.Command.Subcommands)
	if ctx.NArg() == 0 {
		return Errorf("%s needs a command", ctx.Command.HelpName).
			WithHint(fmt.Sprintf("one of %s, for example: %s %s", strings.Join(names, ", "), ctx.Command.HelpName, names[0]))
	}
	return UnknownCommand(ctx.Args().First(), ctx.Command.HelpName, ctx.Command.Subcommands)
}

// UnknownCommand returns the error for an unknown command. The hint proposes the most
// similar one of commands, after prefix, or lists all of them.
func UnknownCommand(word, prefix string, commands []*cli.Command) error {
	names := commandNames(commands)
	hint := "the commands are " + strings.Join(names, ", ")
	if near := value.Nearest(word, names); near != "" {
		hint = fmt.Sprintf("did you mean %s %s?", prefix, near)
	}
	if len(names) == 0 {
		hint = "see " + prefix
	}
	return Errorf("unknown command %q", value.Shorten(word)).WithHint(hint)
}

// strayArgument returns the error for an argument without a flag. The library has not
// parsed the words after it, so the command must not run.
func strayArgument(ctx *cli.Context) error {
	word := ctx.Args().First()
	isRoot := ctx.Command.Name == ctx.App.Name
	if isRoot && value.Nearest(word, commandNames(ctx.App.Commands)) != "" {
		return UnknownCommand(word, ctx.App.Name, ctx.App.Commands)
	}
	e := Errorf("unexpected argument %q", value.Shorten(word))
	switch {
	case strings.Contains(word, "=") && strings.ContainsAny(word, ":/{"):
		return e.WithHint("a forward needs its flag: --forward " + ShellQuote(value.Shorten(word)))
	case slices.Contains(flagNames(ctx.App.Flags), word):
		return e.WithHint("did you mean --" + word + "?")
	case isAddress(word):
		return e.WithHint("a trusted peer needs its flag: --trust " + word)
	}
	return e.WithHint("every value needs its flag before it, see unproxy --help")
}

// isAddress reports whether word is an address or a prefix.
func isAddress(word string) bool {
	if _, err := netip.ParsePrefix(word); err == nil {
		return true
	}
	_, err := netip.ParseAddr(word)
	return err == nil
}

// explainFlagError turns the errors of package flag into usage errors.
func explainFlagError(ctx *cli.Context, err error, _ bool) error {
	text := err.Error()
	help := "see " + strings.TrimSpace(ctx.Command.HelpName) + " --help"
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return unknownFlag(strings.TrimPrefix(name, "-"), flagNames(ctx.Command.Flags), help)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return Errorf("%s needs a value", dashed(strings.TrimPrefix(name, "-"))).WithHint(help)
	}
	return Errorf("%s", text).WithHint(help)
}

func unknownFlag(name string, known []string, help string) error {
	hint := help
	if near := value.Nearest(name, known); near != "" {
		hint = "did you mean --" + near + "?"
	}
	if name == "v" || name == "V" {
		hint = "unproxy version"
	}
	return Errorf("unknown flag %s", dashed(value.Shorten(name))).WithHint(hint)
}

// dashed returns the name of a flag with its dashes.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// commandNames returns the names of the commands that are not hidden.
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

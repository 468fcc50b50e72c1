package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/config"
)

const completionHelp = `Prints a script that has a shell complete commands, flags and their values.

  # bash, for this shell; or into /etc/bash_completion.d/unproxy
  source <(unproxy completion bash)

  # zsh; or into a file _unproxy in a directory of $fpath
  source <(unproxy completion zsh)

  # fish
  unproxy completion fish > ~/.config/fish/completions/unproxy.fish`

// completionCommand is "unproxy completion". The scripts know all that there is
// to complete when they are printed: to press tab runs nothing.
func completionCommand() *cli.Command {
	script := func(shell string, write func([]completed) string) *cli.Command {
		return &cli.Command{Name: shell, Usage: "print the script for " + shell, Action: func(ctx *cli.Context) error {
			_, err := fmt.Fprint(ctx.App.Writer, write(completions(ctx.App)))
			return err
		}}
	}
	return &cli.Command{
		Name: "completion", Usage: "print a script with which a shell completes", Description: completionHelp,
		Subcommands: []*cli.Command{script("bash", bashScript), script("zsh", zshScript), script("fish", fishScript)},
	}
}

// completed is a command, with all that may follow it.
type completed struct {
	path     string // "unproxy trust list"
	commands []completedWord
	flags    []completedFlag
}

// completedWord is a word and what it means.
type completedWord struct{ word, meaning string }

// completedFlag is a flag; its word goes with the dashes.
type completedFlag struct {
	completedWord
	takesValue bool
	choices    []string // the values, where there are few
	isFile     bool     // the value is a path
}

// completions returns every command of an application, the application first.
func completions(app *cli.App) []completed {
	inApp := &cli.Command{Name: app.Name, Flags: app.Flags, Subcommands: app.Commands}
	return appendCompletions(nil, inApp, "")
}

func appendCompletions(all []completed, c *cli.Command, above string) []completed {
	of := completed{path: strings.TrimSpace(above + " " + c.Name)}
	for _, f := range c.Flags {
		if f, ok := completeFlag(f); ok {
			of.flags = append(of.flags, f)
		}
	}
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			of.commands = append(of.commands, completedWord{sub.Name, sub.Usage})
		}
	}
	if !slices.ContainsFunc(of.flags, func(f completedFlag) bool { return f.word == "--help" }) {
		of.flags = append(of.flags, completedFlag{completedWord: completedWord{"--help", "print help"}})
	}
	all = append(all, of)
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			all = appendCompletions(all, sub, of.path)
		}
	}
	return all
}

// completeFlag describes a flag. Those that are hidden from help because there
// are too many of them are the gateway's, and worth completing.
func completeFlag(f cli.Flag) (of completedFlag, ok bool) {
	name := f.Names()[0]
	of.word, of.takesValue = "--"+name, true
	if g, isGeneric := f.(*cli.GenericFlag); isGeneric {
		if s := config.Find(name); s != nil {
			of.meaning, of.takesValue = usageText(g.Usage), !s.Switch // a command may have its own of that name
			of.choices, of.isFile = s.Choices(), s.Argument == "PATH"
			return of, true
		}
	}
	if v, isVisible := f.(cli.VisibleFlag); isVisible && !v.IsVisible() {
		return of, false
	}
	if d, documented := f.(cli.DocGenerationFlag); documented {
		of.meaning, of.takesValue = usageText(d.GetUsage()), d.TakesValue()
		of.isFile = strings.Contains(d.GetUsage(), "`PATH`")
	}
	if of.meaning == "" {
		of.meaning = map[string]string{"help": "print help", "version": "print the version", "strict": "warnings are failures, too"}[name]
	}
	return of, true
}

// usageText takes the marks of the placeholder off a flag's usage.
func usageText(usage string) string { return strings.ReplaceAll(usage, "`", "") }

// shellQuoted writes a text as one word of a POSIX shell, of zsh, or of fish: in
// single quotes, of which those within are written otherwise.
func shellQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// walk writes the branches of a shell's case that follow the words typed so far
// from one command to the next.
func walk(b *strings.Builder, all []completed, indent string) {
	for _, c := range all[1:] {
		fmt.Fprintf(b, "%s%s) at=%s ;;\n", indent, shellQuoted(c.path), shellQuoted(c.path))
	}
}

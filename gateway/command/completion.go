package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/trust"
)

const completionHelp = `Prints a script with which a shell completes commands, flags and their values.

Examples:
  # bash, for this shell; for all shells: > /etc/bash_completion.d/unproxy
  source <(unproxy completion bash)

  # zsh, for this shell; for all shells: as the file _unproxy in a directory of $fpath
  source <(unproxy completion zsh)

  # fish
  unproxy completion fish > ~/.config/fish/completions/unproxy.fish`

// completionCommand returns "unproxy completion". The scripts contain all completions,
// so that shells do not run unproxy.
func completionCommand() *cli.Command {
	script := func(shell string, write func([]completed) string) *cli.Command {
		return &cli.Command{
			Name: shell, Usage: "print the script for " + shell,
			Description: "Example:\n  unproxy completion " + shell,
			Action: func(ctx *cli.Context) error {
				_, err := fmt.Fprint(ctx.App.Writer, write(completions(ctx.App)))
				return err
			},
		}
	}
	return &cli.Command{
		Name: "completion", Usage: "print a completion script for a shell", Description: completionHelp,
		Subcommands: []*cli.Command{script("bash", bashScript), script("zsh", zshScript), script("fish", fishScript)},
	}
}

// completed is a command and the words that may follow it.
type completed struct {
	path     string // "unproxy trust list"
	commands []completedWord
	// arguments are the possible arguments, if there are few.
	arguments []string
	flags     []completedFlag
}

// completedWord is a word and its meaning.
type completedWord struct{ word, meaning string }

// completedFlag is a flag. Its word includes the dashes.
type completedFlag struct {
	completedWord
	takesValue bool
	choices    []string // the possible values; nil if there are many
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
	if of.path == "unproxy trust presets" {
		of.arguments = presetNames()[1:] // without the rule that is none
	}
	all = append(all, of)
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			all = appendCompletions(all, sub, of.path)
		}
	}
	return all
}

// unlisted has the meanings of flags whose help is not generated.
var unlisted = map[string]string{
	"help": "print help", "version": "print the version", "strict": "treat warnings as errors",
}

// completeFlag describes a flag; ok is false if it is not completed. The flags of
// the gateway are completed even where help hides them.
func completeFlag(f cli.Flag) (of completedFlag, ok bool) {
	name := f.Names()[0]
	of.word, of.takesValue = "--"+name, true
	if g, isGeneric := f.(*cli.GenericFlag); isGeneric {
		if s := config.Find(name); s != nil && s.Name == name {
			of.meaning, of.takesValue = s.Meaning, !s.Switch
			if g.Usage != s.Meaning { // a flag of a command, with another meaning
				_, of.meaning = usage.Describe(g)
			}
			of.choices, of.isFile = s.Choices(), s.Argument == "PATH"
			if s.Argument == "RULE" {
				of.choices = presetNames()
			}
			return of, true
		}
	}
	if v, isVisible := f.(cli.VisibleFlag); isVisible && !v.IsVisible() {
		return of, false
	}
	if d, documented := f.(cli.DocGenerationFlag); documented {
		_, of.meaning = usage.Describe(f)
		of.takesValue = d.TakesValue()
		of.isFile = strings.Contains(d.GetUsage(), "`PATH`")
	}
	if of.meaning == "" {
		of.meaning = unlisted[name]
	}
	return of, true
}

// presetNames returns the rules that are names. Other rules cannot be completed.
func presetNames() []string {
	names := []string{trust.Any}
	for _, p := range trust.Presets() {
		names = append(names, p.Name)
	}
	return names
}

// shellQuoted quotes a text for a POSIX shell and zsh, always in single quotes.
func shellQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// walk writes the branches of a shell's case statement that selects a subcommand by
// the words typed so far.
func walk(b *strings.Builder, all []completed, indent string) {
	for _, c := range all[1:] {
		fmt.Fprintf(b, "%s%s) at=%s ;;\n", indent, shellQuoted(c.path), shellQuoted(c.path))
	}
}

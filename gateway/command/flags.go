package command

import (
	"slices"

	"unproxy/gateway/config"

	"github.com/urfave/cli/v2"
)

// pick returns the flags with the given names, in the order of the table.
func (g *given) pick(names ...string) []cli.Flag {
	var picked []cli.Flag
	for _, s := range config.Settings() {
		if !slices.Contains(names, s.Name) {
			continue
		}
		use := "`" + s.Argument + "` " + s.Meaning
		if s.Repeatable {
			use += "; repeatable"
		}
		picked = append(picked, &cli.GenericFlag{Name: s.Name, Usage: use, Value: g.recorder(s)})
	}
	return picked
}

// hidden hides flags from the help.
func hidden(flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		if g, ok := f.(*cli.GenericFlag); ok {
			g.Hidden = true
		}
	}
	return flags
}

package command

import (
	"slices"

	"unproxy/gateway/config"

	"github.com/urfave/cli/v2"
)

// pick returns the flags with the given names.
func pick(flags []cli.Flag, names ...string) []cli.Flag {
	var picked []cli.Flag
	for _, s := range config.Settings() {
		i := slices.IndexFunc(flags, func(f cli.Flag) bool { return f.Names()[0] == s.Name })
		if i < 0 || !slices.Contains(names, s.Name) {
			continue
		}
		if g, ok := flags[i].(*cli.GenericFlag); ok {
			g.Usage = "`" + s.Argument + "` " + s.Meaning
			if s.Repeatable {
				g.Usage += "; repeatable"
			}
		}
		picked = append(picked, flags[i])
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

package command

import (
	"fmt"
	"slices"
	"strings"
)

// flagGroup is a list of flags that the same commands have.
type flagGroup struct {
	paths []string // of the commands
	flags []completedFlag
}

// quoted returns the paths for a shell.
func (g flagGroup) quoted() []string {
	all := make([]string, len(g.paths))
	for i, p := range g.paths {
		all[i] = shellQuoted(p)
	}
	return all
}

// patterns returns the paths as a pattern of a shell's case statement.
func (g flagGroup) patterns() string { return strings.Join(g.quoted(), "|") }

// flagGroups returns each flag once, with the commands that have it with the same meaning.
// Most commands have the gateway's flags, so a script that repeated them would be several
// times as large.
func flagGroups(all []completed) (groups []flagGroup) {
	paths := map[string][]string{} // by flag
	var flags []completedFlag
	for _, c := range all {
		for _, f := range c.flags {
			key := fmt.Sprint(f)
			if paths[key] == nil {
				flags = append(flags, f)
			}
			paths[key] = append(paths[key], c.path)
		}
	}
	for _, f := range flags {
		at := paths[fmt.Sprint(f)]
		i := slices.IndexFunc(groups, func(g flagGroup) bool { return slices.Equal(g.paths, at) })
		if i < 0 {
			i = len(groups)
			groups = append(groups, flagGroup{paths: at})
		}
		groups[i].flags = append(groups[i].flags, f)
	}
	return groups
}

// flagUse is a flag in the commands in which its values are completed the same way.
type flagUse struct {
	flag completedFlag
	// paths are the commands; nil means all commands.
	paths []string
}

// flagUses returns the flags and how their values are completed.
func flagUses(all []completed) (uses []flagUse) {
	values := func(f completedFlag) string { return fmt.Sprint(f.word, f.takesValue, f.choices, f.isFile) }
	for _, c := range all {
		for _, f := range c.flags {
			i := slices.IndexFunc(uses, func(u flagUse) bool { return values(u.flag) == values(f) })
			if i < 0 {
				i = len(uses)
				uses = append(uses, flagUse{flag: f})
			}
			uses[i].paths = append(uses[i].paths, c.path)
		}
	}
	several := func(word string) bool {
		n := 0
		for _, u := range uses {
			if u.flag.word == word {
				n++
			}
		}
		return n > 1
	}
	for i, u := range uses {
		if !several(u.flag.word) {
			uses[i].paths = nil
		}
	}
	return uses
}

// patterns returns a pattern of a shell's case statement for a command and a flag.
func (u flagUse) patterns() string {
	if u.paths == nil {
		return "*" + shellQuoted(" "+u.flag.word)
	}
	all := make([]string, len(u.paths))
	for i, p := range u.paths {
		all[i] = shellQuoted(p + " " + u.flag.word)
	}
	return strings.Join(all, "|")
}

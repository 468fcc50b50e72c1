package command

import (
	"fmt"
	"strings"
)

// bashScript completes in bash, 4 or later. A word of COMP_WORDS is cut at the
// characters of COMP_WORDBREAKS, "=" and ":" among them, so that values with
// those are left alone.
func bashScript(all []completed) string {
	var b strings.Builder
	b.WriteString(`# bash completion for unproxy; made by: unproxy completion bash
_unproxy() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=unproxy i commands flags
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
`)
	walk(&b, all, "        ")
	b.WriteString(`        esac
    done
    COMPREPLY=()
    case "$at $prev" in
`)
	for _, c := range all {
		for _, f := range c.flags {
			switch pattern := shellQuoted(c.path + " " + f.word); {
			case len(f.choices) > 0 && f.takesValue:
				fmt.Fprintf(&b, "    %s) COMPREPLY=($(compgen -W %s -- \"$cur\")); return ;;\n", pattern, shellQuoted(strings.Join(f.choices, " ")))
			case f.isFile:
				fmt.Fprintf(&b, "    %s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", pattern)
			case f.takesValue:
				fmt.Fprintf(&b, "    %s) return ;;\n", pattern)
			}
		}
	}
	b.WriteString("    esac\n    case \"$at\" in\n")
	for _, c := range all {
		var commands, flags []string
		for _, w := range c.commands {
			commands = append(commands, w.word)
		}
		for _, f := range c.flags {
			flags = append(flags, f.word)
		}
		fmt.Fprintf(&b, "    %s) commands=%s flags=%s ;;\n", shellQuoted(c.path),
			shellQuoted(strings.Join(commands, " ")), shellQuoted(strings.Join(flags, " ")))
	}
	b.WriteString(`    esac
    if [[ $cur == -* || -z $commands ]]; then
        commands=$flags
    fi
    COMPREPLY=($(compgen -W "$commands" -- "$cur"))
}
complete -F _unproxy unproxy
`)
	return b.String()
}

// zshScript completes in zsh, both as a file of $fpath and when it is sourced.
func zshScript(all []completed) string {
	var b strings.Builder
	b.WriteString(`#compdef unproxy
# zsh completion for unproxy; made by: unproxy completion zsh
_unproxy() {
    local at=unproxy prev=${words[CURRENT-1]} i
    local -a commands flags
    for ((i = 2; i < CURRENT; i++)); do
        case "$at ${words[i]}" in
`)
	walk(&b, all, "        ")
	b.WriteString(`        esac
    done
    case "$at $prev" in
`)
	for _, c := range all {
		for _, f := range c.flags {
			switch pattern := shellQuoted(c.path + " " + f.word); {
			case len(f.choices) > 0 && f.takesValue:
				fmt.Fprintf(&b, "    %s) compadd -- %s; return ;;\n", pattern, strings.Join(f.choices, " "))
			case f.isFile:
				fmt.Fprintf(&b, "    %s) _files; return ;;\n", pattern)
			case f.takesValue:
				fmt.Fprintf(&b, "    %s) _message %s; return ;;\n", pattern, shellQuoted(f.meaning))
			}
		}
	}
	b.WriteString("    esac\n    case \"$at\" in\n")
	for _, c := range all {
		fmt.Fprintf(&b, "    %s)\n", shellQuoted(c.path))
		for _, w := range c.commands {
			fmt.Fprintf(&b, "        commands+=(%s)\n", described(w))
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "        flags+=(%s)\n", described(f.completedWord))
		}
		b.WriteString("        ;;\n")
	}
	b.WriteString(`    esac
    if [[ $PREFIX == -* || $#commands == 0 ]]; then
        _describe -o flag flags
        return
    fi
    _describe command commands
}
if [[ ${funcstack[1]} == _unproxy ]]; then
    _unproxy "$@"
else
    compdef _unproxy unproxy
fi
`)
	return b.String()
}

// described writes a word as zsh's _describe takes it.
func described(w completedWord) string {
	return shellQuoted(strings.ReplaceAll(w.word, ":", `\:`) + ":" + w.meaning)
}

// fishScript completes in fish, 3 or later.
func fishScript(all []completed) string {
	var b strings.Builder
	b.WriteString(`# fish completion for unproxy; made by: unproxy completion fish
function __unproxy_at
    set -l at unproxy
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
`)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "            case %s\n                set at %s\n", fishQuoted(c.path), fishQuoted(c.path))
	}
	b.WriteString(`        end
    end
    test "$at" = "$argv"
end
complete -c unproxy -f
`)
	for _, c := range all {
		where := fmt.Sprintf("complete -c unproxy -n %s", fishQuoted("__unproxy_at "+c.path))
		for _, w := range c.commands {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", where, w.word, fishQuoted(w.meaning))
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "%s -l %s -d %s", where, strings.TrimPrefix(f.word, "--"), fishQuoted(f.meaning))
			switch {
			case f.isFile:
				b.WriteString(" -r -F")
			case len(f.choices) > 0 && f.takesValue:
				fmt.Fprintf(&b, " -x -a %s", fishQuoted(strings.Join(f.choices, " ")))
			case f.takesValue:
				b.WriteString(" -x")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// fishQuoted quotes for fish, whose single quotes know a backslash.
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

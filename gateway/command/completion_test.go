package command

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"unproxy/gateway/config"
)

// scripts are the completion scripts of the shells.
var scripts = map[string]func([]completed) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

func all() []completed { return completions(newApp(&given{values: config.Values{}})) }

// complete returns a shell's completions of a line, sorted. It skips the test if the
// shell is not installed.
func complete(t *testing.T, shell, line string) []string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("%s is not installed", shell)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(scripts[shell](all())), 0o644); err != nil {
		t.Fatal(err)
	}
	// zsh completes only while a line is edited, so the test replaces the functions
	// that the script calls.
	program := map[string]string{
		"bash": `source "$1"; read -ra COMP_WORDS <<<"$2"; [[ $2 == *" " ]] && COMP_WORDS+=("")
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _unproxy; printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh": `compdef() { :; }; _files() { print -l a-file; }; _message() { :; }
			compadd() { shift; for w in $@; do [[ $w == $PREFIX* ]] && print -- $w; done }
			_describe() { [[ $1 == -o ]] && shift; for w in ${(P)2}; do [[ $w == $PREFIX* ]] && print -- ${w%%:*}; done }
			source $1; words=(${=2}); [[ $2 == *" " ]] && words+=(""); CURRENT=$#words; PREFIX=$words[CURRENT]; _unproxy; true`,
		"fish": `source $argv[1]; complete -C "$argv[2]"`,
	}[shell]
	args := map[string][]string{"bash": {"--norc", "-c", program, "bash"}, "zsh": {"-f", "-c", program, "zsh"}, "fish": {"--no-config", "-c", program}}[shell]
	cmd := exec.Command(shell, append(args, script, line)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir)
	if err := os.WriteFile(filepath.Join(cmd.Dir, "a-file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v: %s", shell, err, stderr.String())
	}
	var found []string
	for _, l := range strings.Split(string(out), "\n") {
		if word, _, _ := strings.Cut(l, "\t"); word != "" {
			found = append(found, word)
		}
	}
	slices.Sort(found)
	return found
}

func TestCompletion(t *testing.T) {
	for shell := range scripts {
		t.Run(shell, func(t *testing.T) {
			for _, tt := range []struct {
				line string
				want string // exactly
			}{
				{"unproxy st", "status"},
				{"unproxy trust ", "explain list presets"},
				{"unproxy routes pr", "print"},
				{"unproxy completion ", "bash fish zsh"},
				{"unproxy --trust 10.0.0.0/8 he", "healthcheck help"},
				{"unproxy --max-c", "--max-connections --max-connections-per-client"},
				{"unproxy check --str", "--strict"},
				{"unproxy --str", ""},
				{"unproxy status --wa", "--watch"},
				{"unproxy doctor --header-t", "--header-timeout"},
				{"unproxy serve --untrusted ", "pass reject"},
				{"unproxy --log-format j", "json"},
				{"unproxy --forward ", ""},
				{"unproxy --trust-file a-f", "a-file"},
				{"unproxy decode --file a-f", "a-file"},
				{"unproxy trust presets cl", "cloudflare"},
				{"unproxy --health-source lin", "linode"},
				{"unproxy --local ", "close relay"},
				{"unproxy probe --local --cou", "--count"},
			} {
				if got := strings.Join(complete(t, shell, tt.line), " "); got != tt.want {
					t.Errorf("completions of %q: %q; want %q", tt.line, got, tt.want)
				}
			}
		})
	}
}

// Every script has every command and every flag, with a meaning.
func TestCompletionIsComplete(t *testing.T) {
	commands := all()
	if len(commands) < 20 {
		t.Fatalf("only %d commands", len(commands))
	}
	for shell, write := range scripts {
		script := write(commands)
		for _, name := range optionNames() {
			if !strings.Contains(script, name) {
				t.Errorf("--%s is not in the script for %s", name, shell)
			}
		}
		for _, c := range commands {
			if !strings.Contains(script, "'"+c.path+"'") && shell != "fish" || !strings.Contains(script, c.path) {
				t.Errorf("%q is not in the script for %s", c.path, shell)
			}
		}
	}
	for _, c := range commands {
		for _, f := range c.flags {
			if f.meaning == "" {
				t.Errorf("%s %s has no meaning", c.path, f.word)
			}
		}
	}
}

// A text with quotes stays one word.
func TestQuotesInCompletion(t *testing.T) {
	odd := []completed{{path: "unproxy", commands: []completedWord{{"x", `it's a \ "word": $HOME`}}}}
	for shell, write := range scripts {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		cmd := exec.Command(shell, "-n")
		cmd.Stdin = strings.NewReader(write(odd))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}

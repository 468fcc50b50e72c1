package migrate

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// The rows are the examples of the READMEs of path-network/go-mmproxy and
// kzemek/go-mmproxy, and their defaults.
func TestTranslate(t *testing.T) {
	for _, row := range []struct{ name, args, want, note string }{
		{"defaults", "", "--forward '0.0.0.0:8443=127.0.0.1:443,[::1]:443' --transparent --trust any", "any client"},
		{"the README's example", "-l 0.0.0.0:25577 -4 127.0.0.1:25578 -6 [::1]:25578 --allowed-subnets ./path-prefixes.txt",
			"--forward '0.0.0.0:25577=127.0.0.1:25578,[::1]:25578' --transparent --trust-file ./path-prefixes.txt", ""},
		{"one family", "-l [::]:22 -4 10.0.0.1:22", "--forward :22=10.0.0.1:22 --transparent --trust any", "IPv6 clients are refused"},
		{"the other family", "-l [::1]:22 -6 [fd00::1]:22",
			"--forward '[::1]:22=[fd00::1]:22' --transparent --trust any", "IPv4 clients are refused"},
		{"every address", "-l :22 -4 10.0.0.1:22", "--forward :22=10.0.0.1:22 --transparent --trust any", ""},
		{"UDP", "-p udp -l 0.0.0.0:53 -4 127.0.0.1:5353 -close-after=90",
			"--forward udp://0.0.0.0:53=127.0.0.1:5353 --transparent --trust any --udp-idle-timeout 90s", "--udp-header first"},
		{"UDP with the default timeout", "-p udp -l 0.0.0.0:53 -4 127.0.0.1:5353 -close-after 60",
			"--forward udp://0.0.0.0:53=127.0.0.1:5353 --transparent --trust any", ""},
		{"a timeout without UDP", "-l :22 -4 127.0.0.1:22 -close-after 90",
			"--forward :22=127.0.0.1:22 --transparent --trust any", ""},
		{"a mark", "-l :22 -4 127.0.0.1:22 -mark 123", "--forward :22=127.0.0.1:22 --transparent --trust any --mark 123", "mark is needed only if"},
		{"TPROXY", "-l 0.0.0.0:25577 -4 127.0.0.1:25578 -6 [::1]:25578 -listen-transparent",
			"--forward '0.0.0.0:25577=127.0.0.1:25578,[::1]:25578' --transparent --trust any --tproxy", "--redirect"},
		{"dynamic", "-l :80 -dynamic-destination", "--forward :80=header --transparent --trust any --allow-destination any", "any destination"},
		{"several listeners", "-l :22 -4 127.0.0.1:22 -listeners 4 -v 2", "--forward :22=127.0.0.1:22 --transparent --trust any", "--loops"},
	} {
		t.Run(row.name, func(t *testing.T) {
			o, err := parse(strings.Fields(row.args))
			if err != nil {
				t.Fatal(err)
			}
			r := translate(o)
			var flags []string
			for _, s := range r.flags {
				flags = append(flags, s.String())
			}
			if got := strings.Join(flags, " "); got != row.want {
				t.Errorf("%s\nwant %s", got, row.want)
			}
			if !slices.ContainsFunc(r.notes, func(n string) bool { return strings.Contains(n, row.note) }) {
				t.Errorf("notes %q, want one with %q", r.notes, row.note)
			}
		})
	}
}

// What go-mmproxy refuses is refused, every problem at once.
func TestParseRefuses(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"-p sctp", `-p "sctp" is not tcp or udp`},
		{"-l 22", `-l "22" is not HOST:PORT`},
		{"-4 [::1]:22", `-4 "[::1]:22" is not an IPv4 address with a port`},
		{"-6 127.0.0.1:22", `-6 "127.0.0.1:22" is not an IPv6 address with a port`},
		{"-4 nonsense -6 nonsense", `-6 "nonsense" is not`},
		{"-mark -1", "invalid value"},
		{"-x", "flag provided but not defined"},
		{"-l :22 more", `unexpected argument "more"`},
	} {
		if _, err := parse(strings.Fields(row.args)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.args, err, row.want)
		}
	}
}

// The output is a script that a shell can read: every line that is no command is a
// comment, and no line is longer than a terminal's usual 100 columns.
func TestPrint(t *testing.T) {
	o, err := parse([]string{"-4", "127.0.0.1:22", "-allowed-subnets", "a list's\nname"})
	if err != nil {
		t.Fatal(err)
	}
	r := translate(o)
	r.old = []string{"ip rule del from 127.0.0.0/8 iif lo lookup 123 pref 32765"}
	r.list("a list's\nname", errors.Join(errors.New("one"), errors.New("two")))
	var b strings.Builder
	r.print(&b)
	text := strings.ReplaceAll(b.String(), "'a list'\\''s\nname'", "LIST")
	for line := range strings.Lines(text) {
		command := strings.HasPrefix(line, "unproxy") || strings.HasPrefix(line, "    --") || strings.HasPrefix(line, "ip ")
		if len(line) > 101 || line != "\n" && !command && !strings.HasPrefix(line, "#") {
			t.Errorf("%q", line)
		}
	}
	if strings.Count(text, "--trust-file LIST") != 3 || !strings.Contains(text, "\n"+r.old[0]+"\n") {
		t.Error(text)
	}
}

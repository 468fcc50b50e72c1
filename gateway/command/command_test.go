package command

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/integration_test/race"
)

// TestMain makes the test binary act as unproxy, for scripts and for tests that need a
// separate process.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", strings.TrimPrefix(race.NoPause(), "GORACE="))
	os.Unsetenv("UNPROXY_TEST_BINARY") // of the integration tests; unproxy would warn of an unknown setting
	testscript.Main(m, map[string]func(){
		"unproxy": func() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		env.Vars = append(env.Vars, race.NoPause())
		return nil
	}})
}

func TestJoinSwitches(t *testing.T) {
	for in, want := range map[string]string{
		"--transparent on --trust any":         "--transparent=on --trust any",
		"--transparent --trust any":            "--transparent --trust any",
		"-require-checksum off":                "-require-checksum=off",
		"--v1-mixed-families false --loops 2":  "--v1-mixed-families=false --loops 2",
		"--v1-ipv4-in-tcp6 false --loops 2":    "--v1-ipv4-in-tcp6=false --loops 2",
		"--transparent onward":                 "--transparent onward",
		"--log-level on":                       "--log-level on",
		"--transparent":                        "--transparent",
		"--transparent=off --require-checksum": "--transparent=off --require-checksum",
	} {
		if got := strings.Join(joinSwitches(strings.Fields(in)), " "); got != want {
			t.Errorf("joinSwitches(%q) = %q; want %q", in, got, want)
		}
	}
}

// TestEveryFlagIsDocumented checks that the help lists every flag of the gateway.
func TestEveryFlagIsDocumented(t *testing.T) {
	g := &given{values: config.Values{}}
	app := newApp(g)
	for _, help := range []string{app.Description, serveHelp(), checkHelp()} {
		for _, f := range g.flags() {
			name := f.Names()[0]
			if s := config.Find(name); s != nil && s.Former == name {
				continue
			}
			if len(name) > 1 && !strings.Contains(help, "\n  --"+name+" ") && !strings.Contains(help, "\n  --"+name+"\n") {
				t.Errorf("--%s is not in the help", name)
			}
		}
		for _, line := range strings.Split(help, "\n") {
			if len(line) > usage.MaxColumn {
				t.Errorf("line of %d columns in the help: %s", len(line), line)
			}
		}
	}
}

// TestNoUrfaveValues checks that every flag of the gateway uses the recorder: the
// library's own kinds split values or apply an alias twice.
func TestNoUrfaveValues(t *testing.T) {
	for _, f := range (&given{}).flags() {
		g, ok := f.(*cli.GenericFlag)
		if !ok || len(g.Aliases) > 0 || len(g.EnvVars) > 0 || g.Required {
			t.Errorf("%v is not a plain generic flag", f.Names())
		}
	}
}

func TestMainExits(t *testing.T) {
	for _, tt := range []struct {
		args string
		want int
	}{
		{"version", 0},
		{"--help", 0},
		{"check --forward :1=192.0.2.9:2 --trust 10.0.0.0/8", 0},
		{"", 2},
		{"--forwrd x", 2},
		{"chekc", 2},
		{"check --forward :1=127.0.0.1:2", 2},
		{"check --forward :1=127.0.0.1:2 --trust ten", 2},
		{"--forward 192.0.2.1:8443=127.0.0.1:2 --trust 10.0.0.0/8", 1}, // not an address of this host
	} {
		var out, errors strings.Builder
		got := Main(append([]string{"unproxy"}, strings.Fields(tt.args)...), strings.NewReader(""), &out, &errors)
		if got != tt.want {
			t.Errorf("unproxy %s: exit code %d; want %d\n%s", tt.args, got, tt.want, errors.String())
		}
		if (got == 0) != (errors.Len() == 0) || (got == 0) != (out.Len() > 0) {
			t.Errorf("unproxy %s: want output on stdout only or errors on stderr only\n%s\n%s", tt.args, out.String(), errors.String())
		}
	}
}

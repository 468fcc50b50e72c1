package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
)

// given collects the values of flags and environment variables. A flag may come before
// or after the name of a command.
type given struct {
	values config.Values
}

// flags returns the flags of the gateway, which write into g. They are GenericFlags
// without aliases and variables, because urfave/cli splits values of slices at commas
// and sets a value twice if there is an alias.
func (g *given) flags() []cli.Flag {
	var all []cli.Flag
	for _, s := range config.Settings() {
		value := g.recorder(s)
		all = append(all, &cli.GenericFlag{Name: s.Name, Usage: s.Meaning, Value: value})
		if s.Former != "" {
			all = append(all, &cli.GenericFlag{Name: s.Former, Hidden: true, Value: value})
		}
	}
	return append(all, &cli.GenericFlag{Name: "f", Hidden: true, Value: &recorder{into: g, name: config.ForwardFlag}})
}

// recorder is a flag value that records texts without parsing them.
type recorder struct {
	into     *given
	name     string
	isSwitch bool
}

func (g *given) recorder(s config.Setting) *recorder {
	return &recorder{into: g, name: s.Name, isSwitch: s.Switch}
}

// Set records a value.
func (r *recorder) Set(value string) error {
	r.into.values[r.name] = append(r.into.values[r.name], value)
	return nil
}

// String returns "": the help prints the default.
func (r *recorder) String() string { return "" }

// IsBoolFlag reports whether the flag may be given without a value. Package flag calls
// it.
func (r *recorder) IsBoolFlag() bool { return r.isSwitch }

// missingValues reports flags without a value. Package flag would take the next flag as
// the value.
func missingValues(args []string) error {
	takesValue := map[string]bool{}
	for _, s := range config.Settings() {
		for _, name := range s.Names() {
			takesValue["--"+name] = !s.Switch
		}
	}
	var found []error
	for i := 1; i < len(args); i++ {
		flag, next := args[i-1], args[i]
		name, _, _ := strings.Cut(next, "=")
		if _, isFlag := takesValue[name]; isFlag && takesValue[flag] {
			found = append(found, usage.Errorf("%s", flag+" needs a value, but is followed by "+name).
				WithHint("add a value: "+flag+" VALUE"))
		}
	}
	return errors.Join(found...)
}

// environment adds the values of environment variables and of the files of --env-file.
// A flag overrides its variable, which overrides the files. It warns of variables that
// look misspelt.
func (g *given) environment(environ []string) ([]config.Warning, error) {
	process := map[string]string{}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		process[name] = text
	}
	warnings := g.variables(process)
	files, err := readEnvFiles(g.values[config.EnvFileFlag])
	return append(warnings, g.variables(files)...), err
}

// readEnvFiles reads environment files. The last assignment to a variable overrides the
// others, as with systemd.
func readEnvFiles(paths []string) (map[string]string, error) {
	values := map[string]string{}
	var errs []error
	for _, path := range paths {
		all, err := config.ReadEnvFile(path)
		errs = append(errs, err)
		for _, a := range all {
			values[a.Name] = a.Value
		}
	}
	return values, errors.Join(errs...)
}

// variables adds the values of variables whose settings have no value yet.
func (g *given) variables(values map[string]string) []config.Warning {
	byVariable := map[string]config.Setting{}
	var known []string
	for _, s := range config.Settings() {
		for _, name := range s.Names() {
			byVariable[config.Variable(name)] = s
		}
		known = append(known, s.Variable())
	}
	var warnings []config.Warning
	for _, name := range slices.Sorted(maps.Keys(values)) {
		text := values[name]
		if !strings.HasPrefix(name, "UNPROXY_") || text == "" {
			continue
		}
		s, ok := byVariable[name]
		switch {
		case !ok:
			warnings = append(warnings, misspelt(name, known)...)
		case len(g.values[s.Name]) > 0: // a flag, or the process's variable
		case s.Repeatable:
			g.values[s.Name] = value.Fields(text)
		default:
			g.values[s.Name] = []string{strings.TrimSpace(text)}
		}
	}
	return warnings
}

// misspelt warns of a variable whose name is close to a known one. It ignores other
// unknown names: for a service named unproxy, Kubernetes sets UNPROXY_PORT and more.
func misspelt(name string, known []string) []config.Warning {
	near := value.Nearest(name, known)
	if near == "" || strings.HasPrefix(name, "UNPROXY_PORT") || strings.HasPrefix(name, "UNPROXY_SERVICE_") {
		return nil
	}
	return []config.Warning{{
		Message: fmt.Sprintf("unknown environment variable %s", name),
		Hint:    "did you mean " + near + "?",
	}}
}

// joinSwitches replaces "--transparent on" by "--transparent=on". Package flag accepts
// the value of a switch only in that form; otherwise the word is an argument.
func joinSwitches(args []string) []string {
	switches := map[string][]string{}
	for _, s := range config.Settings() {
		if s.Switch {
			words := append([]string{"on", "off", "true", "false"}, s.Choices()...)
			for _, name := range s.Names() {
				switches["--"+name], switches["-"+name] = words, words
			}
		}
	}
	var joined []string
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && slices.Contains(switches[args[i]], args[i+1]) {
			joined = append(joined, args[i]+"="+args[i+1])
			i++
			continue
		}
		joined = append(joined, args[i])
	}
	return joined
}

// optionNames returns the names of all flags of the gateway.
func optionNames() []string {
	var names []string
	for _, s := range config.Settings() {
		names = append(names, s.Name)
	}
	return names
}

// commandLine returns a command with the flags of this process that concern forwards
// and routes, quoted for a shell.
func (g *given) commandLine(command string) string {
	words := []string{"unproxy", command}
	for _, s := range config.Settings() {
		if slices.Contains([]config.Group{config.GroupProcess, config.GroupAdmin, config.GroupLog}, s.Group) {
			continue
		}
		for _, v := range g.values[s.Name] {
			if s.Switch {
				words = append(words, "--"+s.Name+"="+v)
				continue
			}
			words = append(words, "--"+s.Name, usage.ShellQuote(v))
		}
	}
	return strings.Join(words, " ")
}

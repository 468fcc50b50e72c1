package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway"
	"unproxy/gateway/settings"
)

// option is one flag of the gateway, and the environment variable that stands
// for it.
type option struct {
	name     string
	group    string
	argument string
	value    string // the default, as help says it
	meaning  string
	// repeatable options keep every value, the others the last one.
	repeatable bool
	// isSwitch options are on when they are given without a value.
	isSwitch bool
}

// forwardOption is the name of the one option that every gateway needs.
const forwardOption = "forward"

// options returns every flag of the gateway, in the order of the help.
func options() []option {
	all := []option{{name: forwardOption, group: "Forwards", argument: "SPEC", repeatable: true,
		meaning: "[udp://]LISTEN=BACKEND[,BACKEND...][?KEY=VALUE&...], at least one; short: -f"}}
	for _, s := range gateway.Settings() {
		all = append(all, option{s.Name, s.Group.String(), s.Argument, s.Default, s.Meaning, s.Repeatable, s.Switch})
	}
	for _, s := range gateway.ProcessSettings() {
		group := "Process"
		if s.Routes {
			group = "Routes"
		}
		all = append(all, option{name: s.Name, group: group, argument: s.Argument, value: s.Default, meaning: s.Meaning})
	}
	all = append(all, adminOptions()...)
	for _, o := range []option{
		{name: "log-format", argument: "auto|json|console", value: "auto", meaning: "lines on stderr; auto is console on a terminal, else json"},
		{name: "log-level", argument: "debug|info|warn|error", value: "info", meaning: "the least loud line that is written"},
		{name: "access-log", argument: "all|errors|off", value: "all", meaning: "a line for each finished connection"},
	} {
		o.group = "Log"
		all = append(all, o)
	}
	return all
}

// variable returns the environment variable that stands for a flag.
func variable(flag string) string {
	return "UNPROXY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// given collects the values of flags and environment variables. A flag may come
// before or after the name of a command; both add to it.
type given struct {
	values gateway.Values
}

// flags returns the flags of the gateway, which write into g. They are of
// urfave's generic kind and have neither aliases nor variables, because its
// slices split values at commas and its aliases would set a value twice.
func (g *given) flags() []cli.Flag {
	var all []cli.Flag
	for _, o := range options() {
		all = append(all, &cli.GenericFlag{Name: o.name, Usage: o.meaning, Value: &recorder{into: g, name: o.name, isSwitch: o.isSwitch}})
	}
	return append(all, &cli.GenericFlag{Name: "f", Hidden: true, Value: &recorder{into: g, name: forwardOption}})
}

// recorder is a flag value that records what it is set to, unparsed.
type recorder struct {
	into     *given
	name     string
	isSwitch bool
}

// Set records a value.
func (r *recorder) Set(value string) error {
	r.into.values[r.name] = append(r.into.values[r.name], value)
	return nil
}

// String returns "", as the help writes the default itself.
func (r *recorder) String() string { return "" }

// IsBoolFlag reports whether the flag may be given without a value; package flag asks.
func (r *recorder) IsBoolFlag() bool { return r.isSwitch }

// missingValues finds flags without a value: the next flag would be taken for it.
func missingValues(args []string) error {
	takesValue := map[string]bool{}
	for _, o := range options() {
		takesValue["--"+o.name] = !o.isSwitch
	}
	var found []error
	for i := 1; i < len(args); i++ {
		flag, next := args[i-1], args[i]
		name, _, _ := strings.Cut(next, "=")
		if _, isFlag := takesValue[name]; isFlag && takesValue[flag] {
			found = append(found, usageError{flag + " needs a value, and is followed by " + name, "give it one: " + flag + " VALUE"})
		}
	}
	return errors.Join(found...)
}

// environment adds the values of variables whose flags were not given. It warns of
// variables that look misspelt.
func (g *given) environment(environ []string) []gateway.Warning {
	byVariable := map[string]option{}
	var variables []string
	for _, o := range options() {
		byVariable[variable(o.name)] = o
		variables = append(variables, variable(o.name))
	}
	var warnings []gateway.Warning
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "UNPROXY_") || value == "" {
			continue
		}
		o, known := byVariable[name]
		if !known {
			warnings = append(warnings, misspelt(name, variables)...)
			continue
		}
		if len(g.values[o.name]) > 0 {
			continue
		}
		if o.repeatable {
			g.values[o.name] = settings.Fields(value)
			continue
		}
		g.values[o.name] = []string{strings.TrimSpace(value)}
	}
	return warnings
}

// misspelt warns of a variable whose name is close to a known one. It ignores others:
// Kubernetes sets UNPROXY_PORT and more for a service of that name.
func misspelt(name string, known []string) []gateway.Warning {
	near := settings.Nearest(name, known)
	if near == "" || strings.HasPrefix(name, "UNPROXY_PORT") || strings.HasPrefix(name, "UNPROXY_SERVICE_") {
		return nil
	}
	return []gateway.Warning{{Message: fmt.Sprintf("environment variable %s means nothing", name), Remedy: "did you mean " + near + "?"}}
}

// joinSwitches writes "--transparent on" as "--transparent=on". Package flag
// knows a switch's value only in that form and would take the word for an
// argument.
func joinSwitches(args []string) []string {
	switches := map[string]bool{}
	for _, o := range options() {
		if o.isSwitch {
			switches["--"+o.name], switches["-"+o.name] = true, true
		}
	}
	var joined []string
	for i := 0; i < len(args); i++ {
		if switches[args[i]] && i+1 < len(args) && slices.Contains([]string{"on", "off", "true", "false"}, args[i+1]) {
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
	for _, o := range options() {
		names = append(names, o.name)
	}
	return names
}

// commandLine returns a command with the flags of forwards and routes that this
// process was given, quoted for a shell.
func (g *given) commandLine(command string) string {
	words := []string{"unproxy", command}
	for _, o := range options() {
		if o.group == "Process" || o.group == "Admin" || o.group == "Log" {
			continue
		}
		for _, v := range g.values[o.name] {
			if o.isSwitch {
				words = append(words, "--"+o.name+"="+v)
				continue
			}
			words = append(words, "--"+o.name, quoteArgument(v))
		}
	}
	return strings.Join(words, " ")
}

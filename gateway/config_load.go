package gateway

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/settings"
)

// Source is a configuration in the words of an operator.
type Source struct {
	// Forwards are the SPECs of the flag --forward.
	Forwards []string
	// Settings are what holds for all forwards, by the names of [Settings],
	// and what holds for the process, by those of [ProcessSettings]. Names
	// that are neither are left alone.
	Settings Values
	// Descriptors is how many files the process may have open at once, from
	// which the limit on connections follows; 0 is unknown. Reserved is how
	// many of them others need, such as an admin endpoint, and PerListener how many
	// an upgrade needs for each TCP listener besides the listener's own.
	Descriptors, Reserved, PerListener int
	// Activated is how many sockets systemd handed over: a listener systemd:NAME
	// takes all that have its name.
	Activated int
}

// Load makes a configuration of the operator's words: it reads the forwards,
// combines each with the settings that hold for all, reads the lists of
// addresses and validates the result. It opens nothing but those lists.
//
// All problems are found at once. The error joins them, each a [*Problem] or an
// error of package trust; with any there is no configuration. Warnings come in
// both cases.
func Load(src Source) (*Config, []Warning, error) {
	l := &loader{src: src, config: &Config{
		Loops:          runtime.GOMAXPROCS(0), // as many as a container may use, not as many as there are
		DrainTimeout:   30 * time.Second,
		UpgradeTimeout: 30 * time.Second,

		SelfTestInterval: 30 * time.Second,
	}}
	l.process()
	l.forwards()
	l.limits()
	if len(l.config.Forwards) > 0 || len(src.Forwards) == 0 {
		warnings, err := l.config.Validate()
		l.warnings = append(l.warnings, warnings...)
		l.errs = append(l.errs, err)
	}
	if err := errors.Join(l.errs...); err != nil {
		return nil, l.warnings, err
	}
	l.config.lists = l.lists.all
	return l.config, l.warnings, nil
}

// loader is a configuration in the making.
type loader struct {
	src      Source
	config   *Config
	lists    lists
	warnings []Warning
	errs     []error
}

// process takes in the settings of the process.
func (l *loader) process() {
	for _, s := range ProcessSettings() {
		values := l.src.Settings[s.Name]
		if len(values) == 0 {
			continue
		}
		if err := s.set(l.config, last(values)); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, last(values), err))
		}
	}
	l.limit(MaxConnections, &l.config.MaxConnections)
	l.limit(MaxFlows, &l.config.MaxFlows)
}

// limit takes in a limit on all forwards together.
func (l *loader) limit(name string, into *int) {
	values := l.src.Settings[name]
	if len(values) == 0 {
		return
	}
	if err := count(values, into); err != nil {
		l.errs = append(l.errs, FlagProblem(name, last(values), err))
	}
}

// forwards reads every forward and settles its settings.
func (l *loader) forwards() {
	common := newDraft()
	for _, s := range Settings() {
		values := l.src.Settings[s.Name]
		if len(values) == 0 || s.Name == MaxConnections || s.Name == MaxFlows {
			continue
		}
		common.given[s.Name] = true
		if err := s.take(&common, values); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, atFault(values, err), err))
		}
	}
	common.nameLists(func(name string) string { return "--" + name })
	var drafts []draft
	for _, spec := range l.src.Forwards {
		f, err := ParseForward(spec)
		if err != nil {
			l.errs = append(l.errs, err)
			continue
		}
		drafts = append(drafts, l.forward(common, f))
	}
	separateFamilies(drafts)
	for i := range drafts {
		l.config.Forwards = append(l.config.Forwards, &drafts[i].forward)
	}
	l.idle(common, drafts)
	l.redirect(common, drafts)
}

// forward puts a forward's own settings over the common ones.
func (l *loader) forward(common draft, f *Forward) draft {
	d := common
	d.given = map[string]bool{}
	d.forward.Name, d.forward.Listeners, d.forward.Datagrams = f.Name, f.Listeners, f.Datagrams
	found := problems{prefix: fmt.Sprintf("--forward %q: ", settings.Shorten(f.Spec))}
	if f.Settings["trust"] != nil || f.Settings["trust-file"] != nil {
		// The two make one list: a forward that names its own peers must not
		// be open to the common ones as well.
		d.trust = list{}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Settings)) {
		found.setting(&d, name, f.Settings[name])
	}
	own := d.given
	if d.forward.Datagrams {
		d.forward.TProxy, d.forward.Redirect = false, nil // connections alone are handed over
	}
	d.nameLists(func(name string) string { return fmt.Sprintf("--forward %q: %s", settings.Shorten(f.Spec), name) })
	l.errs = append(l.errs, found.err())
	if d.forward.Transparent && !own["unknown"] && !common.given["unknown"] {
		d.forward.RejectUnknown = true
	}
	if !d.forward.TProxy && !own["redirect"] {
		d.forward.Redirect = nil // what is given for all is for those that can take it
	}
	warnings, err := l.lists.resolve(&d)
	l.warnings = append(l.warnings, warnings...)
	l.errs = append(l.errs, err)
	return d
}

// redirect looks whether what is redirected by a flag is handed to anybody.
func (l *loader) redirect(common draft, drafts []draft) {
	takes := func(d draft) bool { return d.forward.TProxy }
	if common.given["redirect"] && len(drafts) > 0 && !slices.ContainsFunc(drafts, takes) {
		l.errs = append(l.errs, &Problem{Message: "--redirect says what is handed to a tproxy listener, and there is none", Remedy: "--tproxy"})
	}
}

// setting takes in one key of a forward.
func (p *problems) setting(d *draft, name string, values []string) {
	s, ok := findSetting(name)
	if !ok {
		p.add(fmt.Sprintf("unknown key %q", settings.Shorten(name)), keyRemedy(name))
		return
	}
	if len(values) > 1 && !s.Repeatable {
		p.add(fmt.Sprintf("key %q is given %d times", name, len(values)), "give it once: ?"+name+"="+settings.Shorten(last(values)))
		return
	}
	d.given[name] = true
	if err := s.take(d, values); err != nil {
		p.add(fmt.Sprintf("%s %q %v", name, settings.Shorten(atFault(values, err)), err), remedy(err, "?"+name+"="))
	}
}

// keyRemedy guesses at what an unknown key was meant to be.
func keyRemedy(name string) string {
	for _, s := range ProcessSettings() {
		if s.Name == name {
			return "it holds for the whole process: --" + name + " " + s.Argument
		}
	}
	var names []string
	for _, s := range Settings() {
		names = append(names, s.Name)
	}
	if near := settings.Nearest(name, names); near != "" {
		return "did you mean ?" + near + "?"
	}
	return "the keys are the flags for connections without their dashes, see unproxy --help"
}

// take puts values into d. An empty value is refused where it cannot be meant.
func (s Setting) take(d *draft, values []string) error {
	if !s.Switch && slices.Contains(values, "") {
		return &settings.Error{Why: "is no value; it takes " + s.Argument}
	}
	return s.set(d, values)
}

// atFault returns the one of several values that err is about.
func atFault(values []string, err error) string {
	if e, ok := errors.AsType[*settings.Error](err); ok && e.Value != "" {
		return e.Value
	}
	return last(values)
}

// FlagProblem is the problem with the value of a flag; err is what package
// settings says of it.
func FlagProblem(name, value string, err error) error {
	return &Problem{
		Message: fmt.Sprintf("--%s %q %v", name, settings.Shorten(value), err),
		Remedy:  remedy(err, "--"+name+" "),
	}
}

// remedy says what to write instead of a value; prefix goes before it.
func remedy(err error, prefix string) string {
	var e *settings.Error
	if !errors.As(err, &e) || e.Instead == "" {
		return ""
	}
	return "did you mean " + prefix + e.Instead + "?"
}

func (l *loader) warn(message, remedy string) {
	l.warnings = append(l.warnings, Warning{Message: message, Remedy: remedy})
}

func leadsAnywhere(f *engine.Forward) bool {
	return anyBackend(f, func(b engine.Backend) bool { return b.FromHeader })
}

func hasUnixListener(f *engine.Forward) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return l.Endpoint.IsUnix() })
}

func anyBackend(f *engine.Forward, match func(engine.Backend) bool) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return slices.ContainsFunc(l.Backends, match) })
}

// separateFamilies makes a listener that was written [::]:PORT one of IPv6
// alone where another one takes the same port of IPv4: it would otherwise take
// that one's connections. One that was written :PORT stays as it is, since
// both families were asked for.
func separateFamilies(drafts []draft) {
	type service struct {
		datagrams bool
		port      uint16
	}
	taken := map[service]bool{}
	each(drafts, func(f *engine.Forward, l *engine.Listener) {
		if a := l.Endpoint.Addr; a.IsValid() && a.Addr().Is4() {
			taken[service{f.Datagrams, a.Port()}] = true
		}
	})
	each(drafts, func(f *engine.Forward, l *engine.Listener) {
		port, name := l.Endpoint.Addr.Port(), strings.TrimPrefix(l.Name, "udp://")
		if l.DualStack && strings.HasPrefix(name, "[") && port != 0 && taken[service{f.Datagrams, port}] {
			l.DualStack = false
		}
	})
}

func each(drafts []draft, do func(*engine.Forward, *engine.Listener)) {
	for i := range drafts {
		f := &drafts[i].forward
		for j := range f.Listeners {
			do(f, &f.Listeners[j])
		}
	}
}

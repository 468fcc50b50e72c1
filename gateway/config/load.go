package config

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/hashicorp/go-sockaddr/template"

	"unproxy/gateway/config/value"
	"unproxy/transparent/returnpath"
)

// Source is a configuration as the operator wrote it.
type Source struct {
	// Forwards are the SPECs of the flag --forward.
	Forwards []string
	// Settings are the values of the flags, by the names of [Settings]. [Load]
	// ignores other names, and the settings that package command reads.
	Settings Values
	// Descriptors is how many files the process may have open at once, which
	// limits the number of connections; 0 is unknown. Reserved is how many of
	// them are not for forwards, such as those of an admin endpoint, and
	// PerListener how many an upgrade needs for each listening socket besides
	// its own.
	Descriptors, Reserved, PerListener int
	// Activated is how many sockets systemd handed over: a listener systemd:NAME
	// takes all that have its name.
	Activated int
	// Taken is what the process listens on besides the forwards.
	Taken []Taken
	// EmptyHint is the hint of the problem that there is no forward; "" is an
	// example.
	EmptyHint string
}

// Load makes a configuration: it reads the forwards, combines each with the
// settings that hold for all, reads the lists of addresses and validates the
// result. It opens no file but those lists.
//
// All problems are found at once. The error joins them, each a [*Problem] or an
// error of package trust; then there is no configuration. Warnings are returned
// in both cases.
func Load(src Source) (*Config, []Warning, error) {
	c := newConfig()
	c.Taken = src.Taken
	l := &loader{src: src, config: &c}
	l.process()
	l.forwards()
	l.limits()
	switch {
	case len(src.Forwards) == 0 && src.EmptyHint != "":
		l.errs = append(l.errs, NewProblem(nothingToForward, src.EmptyHint))
	case len(l.config.Forwards) > 0 || len(src.Forwards) == 0:
		warnings, err := l.config.Validate()
		l.warnings = append(l.warnings, warnings...)
		l.errs = append(l.errs, err)
	}
	if err := errors.Join(l.errs...); err != nil {
		return nil, l.warnings, err
	}
	l.config.Lists = &Lists{now: time.Now, all: l.lists.all, files: l.lists.files}
	return l.config, l.warnings, nil
}

// newConfig returns a configuration with the defaults.
func newConfig() Config {
	return Config{
		Loops:            runtime.GOMAXPROCS(0), // as many as a container may use, not as many as there are
		DrainTimeout:     30 * time.Second,
		SelfTestInterval: 30 * time.Second,
		UpgradeTimeout:   30 * time.Second,
		Routes:           returnpath.Options{}.WithDefaults(),
	}
}

// loader builds a configuration.
type loader struct {
	src      Source
	config   *Config
	lists    lists
	warnings []Warning
	errs     []error
}

// given reports whether a setting was given as a flag.
func (l *loader) given(name string) bool { return len(l.src.Settings[name]) > 0 }

// process reads the settings of the process.
func (l *loader) process() {
	for i := range table {
		s := &table[i]
		texts := l.src.Settings[s.Name]
		if s.process == nil || len(texts) == 0 {
			continue
		}
		if err := s.process(l.config, texts); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, last(texts), err))
		}
	}
}

// forwards reads every forward and its settings.
func (l *loader) forwards() {
	common := l.common()
	var drafts []draft
	for _, text := range l.src.Forwards {
		f, err := parseSpec(text, template.Parse)
		if err != nil {
			l.errs = append(l.errs, err)
			continue
		}
		drafts = append(drafts, l.forward(common, f))
	}
	separateFamilies(drafts)
	for i := range drafts {
		l.config.Forwards = append(l.config.Forwards, &drafts[i].Forward)
	}
	l.unused(drafts)
	l.redirect(drafts)
}

// common returns the draft with what is given for all forwards.
func (l *loader) common() draft {
	d := newDraft()
	for i := range table {
		s := &table[i]
		texts := l.src.Settings[s.Name]
		if s.Scope() != ScopeForward || len(texts) == 0 {
			continue
		}
		if err := d.take(s, texts); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, atFault(texts, err), err))
		}
	}
	d.nameLists("--")
	return d
}

// forward applies a forward's own settings over the common ones.
func (l *loader) forward(common draft, f *spec) draft {
	d := common
	d.given = map[string]bool{}
	d.Name, d.Listeners, d.Datagrams = f.name, f.listeners, f.datagrams
	d.dropLists(f.settings)
	prefix := fmt.Sprintf("--forward %q: ", value.Shorten(f.text))
	found := problems{prefix: prefix}
	for _, name := range slices.Sorted(maps.Keys(f.settings)) {
		found.key(&d, name, f.settings[name])
	}
	d.nameLists(prefix)
	d.settle(common.given)
	warnings, err := l.lists.resolve(&d)
	l.warnings = append(l.warnings, warnings...)
	l.errs = append(l.errs, found.err(), err)
	return d
}

// redirect refuses a flag --redirect that no forward can use.
func (l *loader) redirect(drafts []draft) {
	accepts := func(d draft) bool { return d.TProxy }
	if l.given(redirectFlag) && len(drafts) > 0 && !slices.ContainsFunc(drafts, accepts) {
		l.errs = append(l.errs, NewProblem(
			"--redirect needs a tproxy listener, and no forward has one", "add --tproxy"))
	}
}

func (l *loader) warn(message, hint string) {
	l.warnings = append(l.warnings, Warning{Message: message, Hint: hint})
}

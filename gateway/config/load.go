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
	// Forwards are the values of the flag --forward.
	Forwards []string
	// Settings are the values of the flags, by the names of [Settings]. [Load]
	// ignores other names, and the settings that package command reads.
	Settings Values
	// Descriptors is the limit on open file descriptors, which limits the number
	// of connections; 0 is unknown.
	Descriptors int
	// Memory is the memory that the process may use, in bytes; 0 is unknown.
	Memory int64
	// Reserved is how many descriptors the process needs for other purposes, such
	// as the admin endpoint.
	Reserved int
	// PerListener is how many more descriptors an upgrade needs for each
	// listening socket.
	PerListener int
	// Activated is the number of sockets passed by systemd. A listener
	// systemd:NAME takes all sockets of its name.
	Activated int
	// Taken is what the process listens on besides the forwards.
	Taken []Taken
	// EmptyHint is the hint if there is no forward; "" is an example of one.
	EmptyHint string
}

// Load returns a configuration. It parses the forwards, combines each with the
// common settings, reads the address lists and validates the result. It opens no
// other file.
//
// Load reports all problems at once: the error joins them, each a [*Problem] or an
// error of package trust. Warnings are returned with or without an error.
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
		Loops:            runtime.GOMAXPROCS(0), // respects the CPU limit of a container
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

// given reports whether a flag was given.
func (l *loader) given(name string) bool { return len(l.src.Settings[name]) > 0 }

// process parses the settings of the process.
func (l *loader) process() {
	for i := range table {
		s := &table[i]
		texts := l.src.Settings[s.Name]
		if s.process == nil || len(texts) == 0 {
			continue
		}
		before := *l.config
		if err := s.process(l.config, texts); err != nil {
			*l.config = before // a default is valid: each fault is reported once
			l.errs = append(l.errs, FlagProblem(s.Name, last(texts), err))
		}
	}
}

// forwards parses every forward and its settings.
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
	l.warnings = append(l.warnings, redundant(l.lists.all)...)
	separateFamilies(drafts)
	for i := range drafts {
		l.config.Forwards = append(l.config.Forwards, &drafts[i].Forward)
	}
	l.unused(drafts)
	l.redirect(drafts)
}

// common returns the draft with the settings common to all forwards.
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

// forward returns the draft of a forward. Its keys override the common settings.
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

// redirect rejects the flag --redirect if no forward can use it.
func (l *loader) redirect(drafts []draft) {
	accepts := func(d draft) bool { return d.TProxy }
	if l.given(redirectFlag) && len(drafts) > 0 && !slices.ContainsFunc(drafts, accepts) {
		l.errs = append(l.errs, NewProblem(
			"--redirect needs a tproxy listener, but no forward has one", "add --tproxy"))
	}
}

func (l *loader) warn(message, hint string) {
	l.warnings = append(l.warnings, Warning{Message: message, Hint: hint})
}

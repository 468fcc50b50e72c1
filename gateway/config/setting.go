package config

import (
	"slices"
	"strings"
)

// Values are settings before they are parsed: for each name the texts given, in
// order.
type Values map[string][]string

// Setting describes a flag, its environment variable and, if it applies to
// forwards, its key. Help, completion, the man page and the documentation are
// generated from settings.
type Setting struct {
	// Name is the flag without its dashes, and the key.
	Name string
	// Former is a former name that is still accepted, or "". It is not listed.
	Former string
	// Group is the subject that it belongs to.
	Group Group
	// Argument is the placeholder for the value in the help: "D" or "relay|close".
	Argument string
	// Default is the default value as the help prints it.
	Default string
	// Meaning is a short description.
	Meaning string
	// Repeatable settings may be given several times. A forward's keys replace the
	// values of the flag.
	Repeatable bool
	// Switch settings are on if they are given without a value.
	Switch bool
	// Needs is what a forward must have for the setting to have an effect.
	Needs Need

	// forward stores the values of a forward's setting, process those of a process
	// setting. With both, the flag sets the process's value and the key the
	// forward's. With neither, the program reads the setting itself.
	forward binding[draft]
	process binding[Config]
}

// Scope says what a setting applies to.
type Scope uint8

// The scopes.
const (
	// ScopeProcess is one value for the whole process.
	ScopeProcess Scope = iota
	// ScopeForward is a value for each forward; the flag sets the default.
	ScopeForward
	// ScopeBoth is a value for all forwards together, set by the flag, and another
	// for each forward, set by the key.
	ScopeBoth
)

// Scope returns what s applies to.
func (s *Setting) Scope() Scope {
	switch {
	case s.forward == nil:
		return ScopeProcess
	case s.process == nil:
		return ScopeForward
	}
	return ScopeBoth
}

// IsKey reports whether s is a key of forwards.
func (s *Setting) IsKey() bool { return s.forward != nil }

// Names returns Name and, if there is one, Former.
func (s *Setting) Names() []string {
	if s.Former == "" {
		return []string{s.Name}
	}
	return []string{s.Name, s.Former}
}

// Variable returns the environment variable of the flag.
func (s *Setting) Variable() string { return Variable(s.Name) }

// Variable returns the environment variable of a flag.
func Variable(name string) string {
	return "UNPROXY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Choices returns the possible values, or nil if the value is not one of a few words.
func (s *Setting) Choices() []string {
	if s.Argument != strings.ToLower(s.Argument) || !strings.Contains(s.Argument, "|") {
		return nil
	}
	return strings.Split(s.Argument, "|")
}

// Usage returns the meaning as help prints it: with the default, the former name,
// and whether the flag may be repeated.
func (s *Setting) Usage() string {
	text := s.meaning()
	if s.Default != "" {
		text += " [" + s.Default + "]"
	}
	return text
}

// meaning returns Usage without the default.
func (s *Setting) meaning() string {
	text := s.Meaning
	if s.Repeatable {
		text += "; repeatable"
	}
	if s.Former != "" {
		text += "; formerly --" + s.Former
	}
	return text
}

// Group is a section of the help.
type Group uint8

// The groups.
const (
	GroupForward Group = iota
	GroupTrust
	GroupHeader
	GroupTransparent
	GroupBackend
	GroupDatagram
	GroupConnection
	GroupProcess
	GroupRoutes
	GroupAdmin
	GroupLog
)

// String returns the heading of the group.
func (g Group) String() string {
	return [...]string{
		GroupForward:     "Forwards",
		GroupTrust:       "Trust",
		GroupHeader:      "Headers",
		GroupTransparent: "Transparent mode",
		GroupBackend:     "Backends",
		GroupDatagram:    "UDP",
		GroupConnection:  "Connections",
		GroupProcess:     "Process",
		GroupRoutes:      "Routes",
		GroupAdmin:       "Admin",
		GroupLog:         "Log",
	}[g]
}

// Settings returns every setting in the order of the help. The slice is shared and
// must not be modified.
func Settings() []Setting { return table }

// Find returns the setting with a name or a former name, or nil.
func Find(name string) *Setting {
	known := func(s Setting) bool { return s.Name == name || s.Former != "" && s.Former == name }
	i := slices.IndexFunc(table, known)
	if i < 0 {
		return nil
	}
	return &table[i]
}

package config

import (
	"slices"
	"strings"
)

// Values are settings as an operator wrote them: for each name the texts that
// were given, in order.
type Values map[string][]string

// Setting is one thing that an operator can set: by the flag --Name, by the
// environment variable that stands for it and, where it is one of a forward, by
// the key Name in a forward. Everything that lists flags is made from these.
type Setting struct {
	// Name is the flag without its dashes, and the key.
	Name string
	// Former is a name that the setting had before and is still known by, or
	// empty. No list of flags has it.
	Former string
	// Group is the subject that it belongs to.
	Group Group
	// Argument stands for the value in the help, "D" or "relay|close".
	Argument string
	// Default is the value that holds when none is given, as help prints it.
	Default string
	// Meaning says in a few words what it does.
	Meaning string
	// Repeatable settings may be given several times; a forward's own list
	// replaces the list that holds for all forwards.
	Repeatable bool
	// Switch settings are on when they are given without a value.
	Switch bool
	// Needs is what a forward must have for the setting to have an effect.
	Needs Need

	// forward takes the values of a setting of forwards, process those of the
	// process. A setting with both means one thing as a flag and another as a
	// key. One with neither is read by the program around the gateway.
	forward binding[draft]
	process binding[Config]
}

// Scope is what a setting can be set for.
type Scope uint8

// The scopes.
const (
	// ScopeProcess is one value for the whole process.
	ScopeProcess Scope = iota
	// ScopeForward is a value for each forward; the flag sets the common one.
	ScopeForward
	// ScopeBoth is one value for all forwards together as a flag, and one for a
	// single forward as a key.
	ScopeBoth
)

// Scope returns what s can be set for.
func (s *Setting) Scope() Scope {
	switch {
	case s.forward == nil:
		return ScopeProcess
	case s.process == nil:
		return ScopeForward
	}
	return ScopeBoth
}

// IsKey reports whether s can be set for one forward alone.
func (s *Setting) IsKey() bool { return s.forward != nil }

// Names returns Name and, if there is one, Former.
func (s *Setting) Names() []string {
	if s.Former == "" {
		return []string{s.Name}
	}
	return []string{s.Name, s.Former}
}

// Variable returns the environment variable that stands for the flag.
func (s *Setting) Variable() string { return Variable(s.Name) }

// Variable returns the environment variable that stands for the flag of a name.
func Variable(name string) string {
	return "UNPROXY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Choices returns the words that the value may be, where it is one of a few.
func (s *Setting) Choices() []string {
	if s.Argument != strings.ToLower(s.Argument) || !strings.Contains(s.Argument, "|") {
		return nil
	}
	return strings.Split(s.Argument, "|")
}

// Usage returns the meaning with what help adds to it: whether the flag may be
// repeated, and the default.
func (s *Setting) Usage() string {
	text := s.meaning()
	if s.Default != "" {
		text += " [" + s.Default + "]"
	}
	return text
}

// meaning returns Meaning, whether the flag may be repeated, and its former name.
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

// Group is a subject that settings belong to, in the order of the help.
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

// Settings returns every setting in the order of the help. The slice is shared
// and must not be changed.
func Settings() []Setting { return table }

// Find returns the setting of a name, which may be a former one, or nil.
func Find(name string) *Setting {
	known := func(s Setting) bool { return s.Name == name || s.Former != "" && s.Former == name }
	i := slices.IndexFunc(table, known)
	if i < 0 {
		return nil
	}
	return &table[i]
}

package config

import (
	"slices"
	"strings"
)

// Values are settings as the operator wrote them: the texts given for each
// name, in order.
type Values map[string][]string

// Setting is an option of the gateway. It is set by the flag --Name, by an
// environment variable or, if it applies to forwards, by the key Name of a
// forward. Help, man page and completion are generated from the settings.
type Setting struct {
	// Name is the flag without its dashes, and the key.
	Name string
	// Former is an earlier name that is still accepted, or empty. No list of
	// flags has an entry for it.
	Former string
	// Group is its section in the help.
	Group Group
	// Argument is the placeholder for the value in the help: "D" or "relay|close".
	Argument string
	// Default is the default value, as help prints it.
	Default string
	// Meaning is a short description.
	Meaning string
	// Repeatable settings may be given several times; a forward's own list
	// replaces the common list.
	Repeatable bool
	// Switch settings are on if they are given without a value.
	Switch bool
	// Needs is what a forward must have for the setting to have an effect.
	Needs Need

	// forward stores the value in a forward, process in the configuration of
	// the process. A setting with both is stored in the latter if it is given
	// as a flag. A setting with neither is read by package command.
	forward binding[draft]
	process binding[Config]
}

// Scope is what a setting applies to.
type Scope uint8

// The scopes.
const (
	// ScopeProcess is one value for the whole process.
	ScopeProcess Scope = iota
	// ScopeForward is a value for each forward; the flag is its default.
	ScopeForward
	// ScopeBoth is a flag for all forwards together, and a key for one forward.
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

// Variable returns the name of the environment variable for the flag.
func (s *Setting) Variable() string { return Variable(s.Name) }

// Variable returns the name of the environment variable for a flag.
func Variable(name string) string {
	return "UNPROXY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Choices returns the accepted words if the value is one of a fixed set, else
// nil.
func (s *Setting) Choices() []string {
	if s.Argument != strings.ToLower(s.Argument) || !strings.Contains(s.Argument, "|") {
		return nil
	}
	return strings.Split(s.Argument, "|")
}

// Usage returns the text for help: the meaning, whether the flag may be
// repeated, its former name, and the default.
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
	GroupClient
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
		GroupClient:      "Clients",
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

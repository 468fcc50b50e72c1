package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTable checks that every entry is usable for flags, variables, keys, help and
// completion.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i, s := range table {
		switch {
		case !regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`).MatchString(s.Name), seen[s.Name]:
			t.Errorf("%q is not a valid name for a flag, or is a duplicate", s.Name)
		case s.Meaning == "" || strings.HasSuffix(s.Meaning, ".") || s.Group.String() == "":
			t.Errorf("%s: meaning %q, group %v", s.Name, s.Meaning, s.Group)
		case (s.Argument == "") != (s.Switch && s.Choices() == nil):
			t.Errorf("%s: argument %q of a switch: %v", s.Name, s.Argument, s.Switch)
		case i > 0 && s.Group < table[i-1].Group:
			t.Errorf("%s of group %s comes after one of %s", s.Name, s.Group, table[i-1].Group)
		case s.IsKey() != (s.Group >= GroupTrust && s.Group <= GroupConnection):
			t.Errorf("%s of group %s is a key: %v", s.Name, s.Group, s.IsKey())
		}
		if names := s.Names(); names[0] != s.Name || len(names) > 1 != (s.Former != "") {
			t.Errorf("%s has the names %q", s.Name, names)
		}
		seen[s.Name] = true
		for _, name := range s.Names() {
			if found := Find(name); found == nil || found.Name != s.Name {
				t.Errorf("Find(%q) = %v", name, found)
			}
		}
		if s.Former != "" && slices.ContainsFunc(table, func(other Setting) bool { return other.Name == s.Former }) {
			t.Errorf("%s is the former name of %s and also a name of another setting", s.Former, s.Name)
		}
	}
	if Find("no-such-flag") != nil {
		t.Error("Find returned a flag that does not exist")
	}
}

// A setting is a flag of the process, a flag and key of forwards, or both with its own meaning.
func TestScope(t *testing.T) {
	for name, want := range map[string]Scope{
		"loops": ScopeProcess, "admin": ScopeProcess, "headers": ScopeForward, "trust": ScopeForward,
		"max-connections": ScopeBoth, "udp-max-flows": ScopeBoth,
	} {
		if got := Find(name).Scope(); got != want {
			t.Errorf("--%s has the scope %d, want %d", name, got, want)
		}
	}
}

// The help of a setting says whether it is repeatable, its former name and its default.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		setting Setting
		want    string
	}{
		{Setting{Meaning: "what it does"}, "what it does"},
		{Setting{Meaning: "what it does", Default: "5s"}, "what it does [5s]"},
		{Setting{Meaning: "what it does", Repeatable: true}, "what it does; repeatable"},
		{Setting{Meaning: "what it does", Former: "old", Default: "off"}, "what it does; formerly --old [off]"},
		{Setting{Meaning: "what it does", Former: "old", Repeatable: true, Default: "a"}, "what it does; repeatable; formerly --old [a]"},
	} {
		if got := tt.setting.Usage(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// bind stores texts as the value of a setting, in a draft or a Config.
func bind(s *Setting, texts ...string) (draft, Config, error) {
	d, c := newDraft(), newConfig()
	var err error
	switch {
	case s.process != nil:
		err = s.process(&c, texts)
	case s.forward != nil:
		err = s.forward(&d, texts)
	}
	return d, c, err
}

// dump formats a value with all its fields.
func dump(v any) string { return fmt.Sprintf("%+v", v) }

// TestChoices checks that exactly the words in the help are accepted.
func TestChoices(t *testing.T) {
	for _, s := range table {
		if s.Choices() == nil || s.forward == nil && s.process == nil {
			continue
		}
		values := map[string]string{}
		for _, word := range s.Choices() {
			d, c, err := bind(&s, word)
			if err != nil {
				t.Errorf("--%s %s: %v", s.Name, word, err)
			}
			values[dump(d.Forward)+dump(c)] = word
		}
		if len(values) != len(s.Choices()) {
			t.Errorf("--%s %s: only %d of the words have different effects", s.Name, s.Argument, len(values))
		}
		if _, _, err := bind(&s, "no-such-word"); err == nil {
			t.Errorf("--%s accepts any word", s.Name)
		}
	}
}

// TestTableDefaults compares the defaults in the help with the effective ones. It
// skips descriptions of a default, which contain a space or are "CPUs".
func TestTableDefaults(t *testing.T) {
	compared := 0
	for _, s := range table {
		if s.Default == "" || strings.Contains(s.Default, " ") || s.Default == "CPUs" || s.process == nil && s.forward == nil {
			continue
		}
		d, c, err := bind(&s, s.Default)
		if err != nil {
			t.Errorf("--%s %s, its default: %v", s.Name, s.Default, err)
			continue
		}
		if wantD, wantC := newDraft(), newConfig(); dump(d.Forward) != dump(wantD.Forward) || dump(c) != dump(wantC) {
			t.Errorf("the default of --%s is not %s", s.Name, s.Default)
		}
		compared++
	}
	if compared < 30 {
		t.Errorf("only %d defaults were compared", compared)
	}
}

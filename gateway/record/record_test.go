package record

import "testing"

func TestID(t *testing.T) {
	for id, want := range map[uint64]string{0: "c0ffee-0", 6: "c0ffee-6", 1<<64 - 1: "c0ffee-ffffffffffffffff"} {
		text := string(AppendID(nil, "c0ffee", id))
		if back, ok := ParseID(text, "c0ffee"); text != want || back != id || !ok {
			t.Errorf("AppendID(%d) = %q, want %q; parsed as %d, %v", id, text, want, back, ok)
		}
	}
	for _, text := range []string{
		"", "6", "-6", "c0ffee", "c0ffee-", "c0ffee-x", "c0ffee--6", "c0ffee-10000000000000000", "other-6", "c0ffee-6 ",
	} {
		if id, ok := ParseID(text, "c0ffee"); ok {
			t.Errorf("ParseID(%q) = %d, want an error", text, id)
		}
	}
}

// Each outcome has a word of its own, a meaning, a hint and a possible phase.
func TestOutcomes(t *testing.T) {
	words := map[string]bool{}
	for _, o := range Outcomes() {
		if words[o.String()] || o.String() == "" || o.Meaning() == "" || o.Hint() == "" {
			t.Errorf("outcome %d: %q, %q, %q", o, o, o.Meaning(), o.Hint())
		}
		words[o.String()] = true
		possible := false
		for p := range NumPhases {
			possible = possible || o.Possible(Phase(p))
		}
		if !possible {
			t.Errorf("%v: no phase is possible", o)
		}
	}
	if len(words) != NumOutcomes || OK.Refused() || Reset.Refused() || !Untrusted.Refused() || !Internal.Refused() {
		t.Errorf("%d words for %d outcomes, or Refused is wrong", len(words), NumOutcomes)
	}
}

// What a health check leaves is no event, unless it was refused: with LOCAL relayed,
// HAProxy's "check inter 2s" writes 43200 lines a day.
func TestSeverityOfLocal(t *testing.T) {
	for _, o := range Outcomes() {
		for command, want := range map[Command]Severity{
			NoCommand: o.Severity(), CommandProxy: o.Severity(), CommandUnknown: o.Severity(),
			CommandLocal: map[bool]Severity{false: Debug, true: o.Severity()}[o.Refused()],
		} {
			c := Connection{Outcome: o, Command: command}
			if got := c.Severity(); got != want {
				t.Errorf("%s, command %q: severity %d, want %d", o, command, got, want)
			}
		}
	}
}

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// results are the verdicts of earlier runs, in a file with a line for each, so that a run can
// be interrupted, and that new tests meet only what survived the old ones.
type results struct {
	path    string // "": none are kept
	verdict map[string]verdict
}

// readResults reads the file, which need not exist. Of several verdicts the last one counts.
func readResults(path string) (results, error) {
	r := results{path: path, verdict: map[string]verdict{}}
	if path == "" {
		return r, nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return r, err
	}
	for line := range strings.Lines(string(text)) {
		if v, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			r.verdict[name] = verdict(v)
		}
	}
	return r, nil
}

// isFinal reports whether a mutant need not be tried again: more tests do not let it live.
func (r results) isFinal(m mutant) bool {
	return slices.Contains([]verdict{killed, endless, unbuilt}, r.verdict[m.name()])
}

// split returns the mutants that need not be tried again, and the others: those without a
// verdict first, and of these the ones that need not be built.
func (r results) split(all []mutant) (final, open []mutant) {
	var built, again []mutant
	for _, m := range all {
		switch {
		case r.isFinal(m):
			final = append(final, m)
		case r.verdict[m.name()] != "":
			again = append(again, m)
		case !m.switched:
			built = append(built, m)
		default:
			open = append(open, m)
		}
	}
	return final, slices.Concat(open, built, again)
}

// keep writes a verdict to the file.
func (r results) keep(m mutant, v verdict) error {
	if r.path == "" {
		return nil
	}
	file, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, "%s\t%s\n", v, m.name())
	return err
}

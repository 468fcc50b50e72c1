package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Source is where the rules of a set come from.
type Source struct {
	// Rules are the values of a flag. Each holds one rule, or several separated
	// by commas or spaces, as in an environment variable.
	Rules []string
	// Files are paths of rule files: one rule per line, "#" starts a comment.
	Files []string
	// AllowEmpty accepts a file without a rule if it has a comment. A file without
	// either is an error nevertheless: that is what a failed export leaves behind.
	AllowEmpty bool
	// Reader reads the files; nil uses a new one. One that is shared limits how
	// many reads may hang.
	Reader *Files
	// Nearest returns the name that a misspelled word probably means, or ""; nil
	// suggests none.
	Nearest func(word string, names []string) string
	// Flag is the name of the flag that Rules belong to, such as "--trust". It
	// becomes the origin of their rules, errors and warnings.
	Flag string
}

// Load parses all rules of src and returns the set of their prefixes. It
// evaluates templates on this host, which may run ip(8) to find the default
// route.
//
// Load reports all problems at once: the error joins an [*Error] for each, and
// the set is nil if there is any. A file without rules is a problem; a source
// without rules and files is [ErrNoRule]. Warnings are returned with or without
// a set.
func Load(src Source) (*Set, []Warning, error) {
	p := newParser()
	p.nearest = src.Nearest
	return p.load(src)
}

// load is [Load] with the parser's presets and template evaluator.
func (p *parser) load(src Source) (*Set, []Warning, error) {
	if len(src.Rules) == 0 && len(src.Files) == 0 {
		return nil, nil, ErrNoRule
	}
	c := &collector{parser: p, files: src.Reader, allowEmpty: src.AllowEmpty}
	if c.files == nil {
		c.files = new(Files)
	}
	for _, value := range src.Rules {
		items := splitRules(value)
		if len(items) == 0 {
			c.add("", src.Flag) // reports the empty value
		}
		for _, text := range items {
			c.add(text, src.Flag)
		}
	}
	for _, name := range src.Files {
		c.file(name)
	}
	c.warnings = append(c.warnings, repeats(c.entries, nil)...)
	if len(c.errs) > 0 {
		return nil, c.warnings, errors.Join(c.errs...)
	}
	set := NewSet(slices.Concat(c.entries...))
	n := 0
	for _, rules := range c.entries {
		set.starts = append(set.starts, n)
		n += len(rules)
	}
	return set, c.warnings, nil
}

// collector accumulates the rules, warnings and errors of a source.
type collector struct {
	*parser
	files *Files
	// allowEmpty is [Source.AllowEmpty].
	allowEmpty bool
	entries    [][]Rule // one entry per rule as written; a preset has several prefixes
	warnings   []Warning
	errs       []error
}

// add parses one rule.
func (c *collector) add(text, origin string) {
	rules, warnings, err := c.rule(text, origin)
	c.entries = append(c.entries, rules)
	c.warnings = append(c.warnings, warnings...)
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// fail records a problem with a whole file.
func (c *collector) fail(name, problem, hint string) {
	c.errs = append(c.errs, &Error{Origin: name, Problem: problem, hint: hint})
}

// file parses all rules of a file.
func (c *collector) file(name string) {
	text, err := c.files.read(name)
	if err != nil {
		problem := fmt.Sprintf("cannot read the file: %v", withoutPath(err))
		c.errs = append(c.errs, &Error{Origin: name, Problem: problem, Err: err})
		return
	}
	before, found := len(c.errs), false
	text = strings.TrimPrefix(text, "\ufeff") // Windows editors write a byte order mark
	for i, line := range strings.Split(text, "\n") {
		rule := strings.TrimSpace(stripComment(line))
		if rule == "" {
			continue
		}
		found = true
		c.line(rule, fmt.Sprintf("%s:%d", name, i+1))
		if len(c.errs)-before > maxFileProblems {
			c.errs = c.errs[:before+maxFileProblems]
			c.fail(name, "more lines are invalid", "check that this file is a list of rules, one per line")
			return
		}
	}
	if !found && !(c.allowEmpty && strings.Contains(text, "#")) {
		c.fail(name, "the file contains no rule", "write one rule per line, such as 10.0.0.0/8"+c.emptyHint())
	}
}

// emptyHint says how to write an empty list, if that is allowed.
func (c *collector) emptyHint() string {
	if c.allowEmpty {
		return ", or a comment alone for an empty list: # none"
	}
	return ""
}

// line parses a line of a file, which holds exactly one rule.
func (c *collector) line(text, origin string) {
	if !strings.Contains(text, "{{") && strings.ContainsAny(text, " \t,") {
		c.errs = append(c.errs, &Error{
			Origin:  origin,
			Problem: quote(text) + " is more than one rule",
			hint:    "write one rule per line, comments after #",
		})
		return
	}
	c.add(text, origin)
}

// stripComment cuts a line at the "#" of a comment. A "#" inside a template is
// not a comment.
func stripComment(line string) string {
	end := strings.LastIndex(line, "}}")
	if start := strings.Index(line, "{{"); start < 0 || end < start || strings.Contains(line[:start], "#") {
		end = 0
	}
	if i := strings.IndexByte(line[end:], '#'); i >= 0 {
		return line[:end+i]
	}
	return line
}

// splitRules splits a flag's value into rules. A value with a template is one
// rule.
func splitRules(value string) []string {
	if strings.Contains(value, "{{") {
		return []string{strings.TrimSpace(value)}
	}
	return splitList(value)
}

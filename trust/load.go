package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Source is where the rules of a set come from.
type Source struct {
	// Rules are the values of the flag. Each is a rule, or several parted by
	// commas or spaces, as an environment variable needs.
	Rules []string
	// Files are paths of lists: one rule a line, "#" begins a comment.
	Files []string
	// Flag is the name of the flag that Rules stand for, such as "--trust":
	// the origin of its rules, errors and warnings.
	Flag string
}

// The limits on what one file may be. They keep a wrong path, such as a log
// or a device, from taking the memory or flooding the terminal.
const (
	maxFile     = 16 << 20 // bytes
	maxProblems = 20       // that are told of one file
)

// Load reads all rules and makes a set of them. Templates are evaluated on
// this host, which may start ip(8) to learn the default route.
//
// All problems are found at once: the error joins them, each an [*Error]. With
// any problem there is no set. A file that holds no rule is a problem, and so
// is a source without any rule or file, which is [ErrNoRule]. Warnings are of
// rules that work but may not be meant; they come with a set and without.
func Load(src Source) (*Set, []Warning, error) {
	return newParser().load(src)
}

// load does what [Load] says, for the parser's host.
func (p *parser) load(src Source) (*Set, []Warning, error) {
	if len(src.Rules) == 0 && len(src.Files) == 0 {
		return nil, nil, ErrNoRule
	}
	c := &collector{parser: p}
	for _, value := range src.Rules {
		items := splitRules(value)
		if len(items) == 0 {
			c.add("", src.Flag)
		}
		for _, text := range items {
			c.add(text, src.Flag)
		}
	}
	for _, name := range src.Files {
		c.file(name)
	}
	c.warnings = append(c.warnings, repeats(c.entries)...)
	if len(c.errs) > 0 {
		return nil, c.warnings, errors.Join(c.errs...)
	}
	return NewSet(slices.Concat(c.entries...)), c.warnings, nil
}

// collector gathers what the rules of a source come to.
type collector struct {
	*parser
	entries  [][]Rule // what each rule of the operator's came to
	warnings []Warning
	errs     []error
}

// add takes one rule in.
func (c *collector) add(text, origin string) {
	rules, warnings, err := c.rule(text, origin)
	c.entries = append(c.entries, rules)
	c.warnings = append(c.warnings, warnings...)
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// fault takes in a problem with a whole file.
func (c *collector) fault(name, problem, mend string, err error) {
	c.errs = append(c.errs, &Error{Origin: name, Problem: problem, Mend: mend, Err: err})
}

// file takes in all rules of a file.
func (c *collector) file(name string) {
	text, err := readFile(name)
	if err != nil {
		c.fault(name, fmt.Sprintf("cannot read the trust file: %v", reason(err)), "", err)
		return
	}
	before, found := len(c.errs), false
	text = strings.TrimPrefix(text, "\ufeff") // Windows editors begin UTF-8 with it
	for i, line := range strings.Split(text, "\n") {
		rule := strings.TrimSpace(stripComment(line))
		if rule == "" {
			continue
		}
		found = true
		c.line(rule, fmt.Sprintf("%s:%d", name, i+1))
		if len(c.errs)-before > maxProblems {
			c.errs = c.errs[:before+maxProblems]
			c.fault(name, "there are more broken lines", "is this a list of trust rules, one a line?", nil)
			return
		}
	}
	if !found {
		c.fault(name, "the trust file holds no rule", "write one rule a line, such as 10.0.0.0/8", nil)
	}
}

// line takes in the rule of a line, which may be only one.
func (c *collector) line(text, origin string) {
	if !strings.Contains(text, "{{") && strings.ContainsAny(text, " \t,") {
		c.errs = append(c.errs, &Error{Origin: origin, Problem: quote(text) + " is more than one rule", Mend: "write one rule a line, comments after #"})
		return
	}
	c.add(text, origin)
}

// readFile reads a file that is not too long to be a list of rules.
func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("it is longer than %d MiB", maxFile>>20)
	}
	return string(b), nil
}

// reason returns the error without the path, which the message names already.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// stripComment cuts a line at the "#" of a comment. Inside a template "#" is a
// character like others.
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

// splitRules parts a flag's value into rules, and leaves templates whole.
func splitRules(value string) []string {
	if strings.Contains(value, "{{") {
		return []string{strings.TrimSpace(value)}
	}
	return splitList(value)
}

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"unproxy/trust"
)

// maxEnvFile limits the size of an environment file, so that a wrong path does not
// exhaust memory.
const maxEnvFile = 1 << 20

// Assignment is one NAME=VALUE of an environment file.
type Assignment struct {
	Name, Value string
	// Line is the number of its first line, from 1.
	Line int
}

// ReadEnvFile reads a file of assignments in the format of systemd's EnvironmentFile=,
// see systemd.exec(5). As with systemd, a file is optional if its path begins with "-".
// The error is a [*Problem].
func ReadEnvFile(path string) ([]Assignment, error) {
	path, optional := strings.CutPrefix(path, "-")
	text, err := readEnvFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, NewProblem(fmt.Sprintf("--env-file: %v", err), "")
	}
	all, err := ParseEnvFile(text)
	if err != nil {
		return nil, NewProblem(fmt.Sprintf("--env-file: %s:%v", path, err),
			"one NAME=VALUE per line, # starts a comment line")
	}
	return all, nil
}

func readEnvFile(path string) (string, error) {
	f, err := trust.OpenFile(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxEnvFile {
		return "", fmt.Errorf("%s is longer than %d bytes", path, maxEnvFile)
	}
	return string(b), nil
}

// ParseEnvFile parses the text of an environment file as systemd does
// (parse_env_file_internal in src/basic/env-file.c): lines of NAME=VALUE; empty lines
// and lines that start with # or ; are ignored; a backslash before the end of a line
// continues it; values may be quoted, and a quoted value may span lines.
//
// It is stricter where systemd ignores a line or where its versions differ: a line
// without "=", an invalid name, a quote that is not closed, and a comment line that ends
// with a backslash are errors. Errors begin with the number of the line.
func ParseEnvFile(text string) ([]Assignment, error) {
	p := envParser{rest: strings.TrimPrefix(text, "\ufeff"), line: 1}
	var all []Assignment
	for p.skipBlank(); p.rest != ""; p.skipBlank() {
		line := p.line
		a, err := p.assignment()
		if err != nil {
			return nil, fmt.Errorf("%d: %w", line, err)
		}
		if a.Name != "" {
			a.Line = line
			all = append(all, a)
		}
	}
	return all, nil
}

// envParser holds the remaining text and the number of its first line.
type envParser struct {
	rest string
	line int
}

// next consumes the next byte. The text must not be empty.
func (p *envParser) next() byte {
	c := p.rest[0]
	p.rest = p.rest[1:]
	if c == '\n' {
		p.line++
	}
	return c
}

func (p *envParser) skipBlank() {
	for p.rest != "" && isBlank(p.rest[0]) {
		p.next()
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// assignment consumes a line and its continuations. For a comment the name is empty.
func (p *envParser) assignment() (Assignment, error) {
	if p.rest[0] == '#' || p.rest[0] == ';' {
		return Assignment{}, p.comment()
	}
	end := strings.IndexAny(p.rest, "=\n")
	if end < 0 || p.rest[end] == '\n' {
		line, _, _ := strings.Cut(p.rest, "\n")
		return Assignment{}, fmt.Errorf("%.64q is not NAME=VALUE", line)
	}
	name := strings.TrimRight(p.rest[:end], " \t\r")
	if !isEnvName(name) {
		return Assignment{}, fmt.Errorf("%.64q is not the name of a variable", name)
	}
	p.rest = p.rest[end+1:]
	value, err := p.value()
	return Assignment{Name: name, Value: value}, err
}

// isEnvName reports whether systemd accepts a name (env_name_is_valid).
func isEnvName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

func (p *envParser) comment() error {
	line, rest, _ := strings.Cut(p.rest, "\n")
	if strings.HasSuffix(strings.TrimRight(line, "\r"), `\`) {
		return errors.New(`a comment ends with "\": only some versions of systemd continue it on the next line`)
	}
	p.rest = rest
	p.line++
	return nil
}

// value consumes a value up to the end of its line. It may begin with quoted parts; in
// the unquoted rest a quote is an ordinary byte. White space around unquoted text, and
// between quoted parts, is dropped.
func (p *envParser) value() (string, error) {
	var b strings.Builder
	quotable, kept := true, 0 // kept is the length without trailing white space
	for p.rest != "" {
		c := p.next()
		switch {
		case c == '\n':
			return b.String()[:kept], nil
		case quotable && (c == '\'' || c == '"'):
			if err := p.quoted(c, &b); err != nil {
				return "", err
			}
			kept = b.Len()
			continue
		case isBlank(c):
			if !quotable {
				b.WriteByte(c)
			}
			continue
		case c == '\\':
			if p.rest == "" {
				continue
			}
			if c = p.next(); c == '\n' {
				continue
			}
		}
		quotable = false
		b.WriteByte(c)
		kept = b.Len()
	}
	return b.String()[:kept], nil
}

// quoted consumes the rest of a quoted part. In double quotes, a backslash escapes
// "\`$ and continues a line.
func (p *envParser) quoted(quote byte, b *strings.Builder) error {
	for p.rest != "" {
		c := p.next()
		switch {
		case c == quote:
			return nil
		case c == '\\' && quote == '"' && p.rest != "":
			c = p.next()
			if !strings.ContainsRune("\"\\`$\n", rune(c)) {
				b.WriteByte('\\')
			}
			if c != '\n' {
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return fmt.Errorf("a quote %c is not closed", quote)
}

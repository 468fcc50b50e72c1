package accesslog

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"unproxy/gateway/record"
)

// Format is how lines are written. The zero value is [Auto].
type Format uint8

// The formats. Auto is Console if the writer is a terminal, and JSON otherwise.
const (
	Auto Format = iota
	JSON
	Console
)

// Mode selects the connections that have a line. The zero value is [All].
type Mode uint8

// The modes. Errors leaves out connections that ended as ok or empty, Off leaves
// out all of them.
const (
	All Mode = iota
	Errors
	Off
)

// leavesOut reports whether a connection with that outcome has no line.
func (m Mode) leavesOut(o record.Outcome) bool {
	switch m {
	case Off:
		return true
	case Errors:
		return o == record.OK || o == record.Empty
	}
	return false
}

// Level is the minimum severity of lines that are written. The zero value is
// [Info].
type Level uint8

// The levels. Their values are not in order of severity.
const (
	Info Level = iota
	Debug
	Warn
	Error
)

// The words of formats, modes and levels on the command line.
var (
	formats = [...]string{Auto: "auto", JSON: "json", Console: "console"}
	modes   = [...]string{All: "all", Errors: "errors", Off: "off"}
	levels  = [...]string{Info: "info", Debug: "debug", Warn: "warn", Error: "error"}
)

// String returns the format's word on the command line, such as "json".
func (f Format) String() string { return formats[f] }

// String returns the mode's word on the command line, such as "errors".
func (m Mode) String() string { return modes[m] }

// String returns the level's word on the command line, such as "warn".
func (l Level) String() string { return levels[l] }

// ParseFormat parses a format's word. The error lists the words.
func ParseFormat(s string) (Format, error) { return parse[Format]("log format", formats[:], s) }

// ParseMode parses a mode's word. The error lists the words.
func ParseMode(s string) (Mode, error) { return parse[Mode]("access log", modes[:], s) }

// ParseLevel parses a level's word. The error lists the words.
func ParseLevel(s string) (Level, error) { return parse[Level]("log level", levels[:], s) }

// parse returns the index of s in words; what is what the words name.
func parse[T ~uint8](what string, words []string, s string) (T, error) {
	if i := slices.Index(words, s); i >= 0 {
		return T(i), nil
	}
	return 0, fmt.Errorf("%s %q is not one of %s", what, s, strings.Join(words, ", "))
}

// zerolog returns the level in zerolog's terms.
func (l Level) zerolog() zerolog.Level {
	return [...]zerolog.Level{
		Info: zerolog.InfoLevel, Debug: zerolog.DebugLevel, Warn: zerolog.WarnLevel, Error: zerolog.ErrorLevel,
	}[l]
}

// severityLevel returns the level of a line about an outcome of severity s.
func severityLevel(s record.Severity) zerolog.Level {
	return [...]zerolog.Level{
		record.Debug: zerolog.DebugLevel, record.Info: zerolog.InfoLevel,
		record.Warn: zerolog.WarnLevel, record.Error: zerolog.ErrorLevel,
	}[s]
}

// fieldOrder is the order of a connection's keys in the console format. The keys
// of other lines follow in alphabetical order.
var fieldOrder = [...]string{
	"id", "forward", "protocol", "peer", "client", "destination", "backend", "source", "transparent", "toa", "version", "command",
	"outcome", "phase", "by", "reason", "action", "offset", "bytes_in", "bytes_out", "datagrams_in", "datagrams_out",
	"header_ms", "connect_ms", "duration_ms",
	"authority", "alpn", "unique_id", "tls_version", "tls_verified", "tls_verify_error", "tls_cn", "tls_cn_unverified",
	"aws_vpce", "azure_link", "gcp_psc", "sample",
}

// formatted returns a writer that takes JSON lines and writes them to w in the
// format of c. w must lead to c.Writer.
func formatted(w io.Writer, c Config) io.Writer {
	terminal := IsTerminal(c.Writer)
	if c.Format == JSON || c.Format == Auto && !terminal {
		return w
	}
	return zerolog.ConsoleWriter{
		Out:             w,
		NoColor:         !terminal, // zerolog itself honours NO_COLOR
		FieldsOrder:     fieldOrder[:],
		FormatTimestamp: func(v any) string { return fmt.Sprint(v) },
		FormatMessage:   func(v any) string { return printable(fmt.Sprint(v)) },
	}
}

// IsTerminal reports whether w is a terminal. It does not call Fd, which may make a
// file blocking.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	terminal := false
	err = raw.Control(func(fd uintptr) { terminal = isatty.IsTerminal(fd) })
	return err == nil && terminal
}

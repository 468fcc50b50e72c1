package accesslog

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// Format is how lines are written.
type Format uint8

// The formats. Auto, the zero value, is Console if the writer is a terminal
// and JSON otherwise.
const (
	Auto Format = iota
	JSON
	Console
)

// Mode is which connections have a line.
type Mode uint8

// The modes. All is the zero value. Errors leaves out connections that ended
// as ok or empty.
const (
	All Mode = iota
	Errors
	Off
)

// Level is the least loud line that is written.
type Level uint8

// The levels. Info is the zero value.
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

// String returns the format's word on the command line.
func (f Format) String() string { return formats[f] }

// String returns the mode's word on the command line.
func (m Mode) String() string { return modes[m] }

// String returns the level's word on the command line.
func (l Level) String() string { return levels[l] }

// ParseFormat returns the format of that word.
func ParseFormat(s string) (Format, error) { return parse[Format]("log format", formats[:], s) }

// ParseMode returns the mode of that word.
func ParseMode(s string) (Mode, error) { return parse[Mode]("access log", modes[:], s) }

// ParseLevel returns the level of that word.
func ParseLevel(s string) (Level, error) { return parse[Level]("log level", levels[:], s) }

// parse returns the place of s among words.
func parse[T ~uint8](what string, words []string, s string) (T, error) {
	if i := slices.Index(words, s); i >= 0 {
		return T(i), nil
	}
	return 0, fmt.Errorf("%s %q is none of %s", what, s, strings.Join(words, ", "))
}

// zerolog returns the level in zerolog's terms.
func (l Level) zerolog() zerolog.Level {
	return [...]zerolog.Level{Info: zerolog.InfoLevel, Debug: zerolog.DebugLevel, Warn: zerolog.WarnLevel, Error: zerolog.ErrorLevel}[l]
}

// severityLevel returns the level of a line about an outcome of severity s.
func severityLevel(s record.Severity) zerolog.Level {
	return [...]zerolog.Level{record.Debug: zerolog.DebugLevel, record.Info: zerolog.InfoLevel, record.Warn: zerolog.WarnLevel, record.Error: zerolog.ErrorLevel}[s]
}

// fieldOrder is the order of a connection's keys in the console format; keys
// of other lines follow in the order of the alphabet.
var fieldOrder = [...]string{
	"id", "forward", "protocol", "peer", "client", "destination", "backend", "source", "transparent", "version",
	"outcome", "phase", "by", "reason", "action", "offset", "bytes_in", "bytes_out", "datagrams_in", "datagrams_out",
	"header_ms", "connect_ms", "duration_ms",
	"authority", "alpn", "unique_id", "tls_version", "tls_cn", "aws_vpce", "azure_link", "gcp_psc", "sample",
}

// formatted returns a writer that takes JSON lines and writes c's format to w,
// which stands before c.Writer.
func formatted(w io.Writer, c Config) io.Writer {
	terminal := IsTerminal(c.Writer)
	if c.Format == JSON || c.Format == Auto && !terminal {
		return w
	}
	return zerolog.ConsoleWriter{
		Out:             w,
		NoColor:         !terminal, // NO_COLOR is heeded there
		FieldsOrder:     fieldOrder[:],
		FormatTimestamp: func(v any) string { return fmt.Sprint(v) },
		FormatMessage:   func(v any) string { return printable(fmt.Sprint(v)) },
	}
}

// IsTerminal reports whether w is a terminal. It does not ask for w's Fd, which
// may make a file blocking.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	found := false
	err = raw.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		found = err == nil
	})
	return err == nil && found
}

// Package usage has the code shared by the commands of unproxy: usage errors, exit
// codes, error reports, the layout of help texts, and guards that keep urfave/cli from
// ignoring parts of a command line.
//
// A command builds a [cli.Command], reads its flags, and returns an error.
// [NewApp] makes the application, [Report] prints what went wrong, and
// [ExitCode] says how the process ends:
//
//	app := usage.NewApp(root)
//	err := app.Run(os.Args)
//	usage.Report(os.Stderr, err)
//	os.Exit(usage.ExitCode(err))
//
// The package keeps no state. Its functions may be called concurrently.
package usage

import (
	"errors"
	"fmt"

	"unproxy/gateway/config"
	"unproxy/transparent/routing"
	"unproxy/trust"
)

// The exit codes of every command.
const (
	ExitSuccess   = 0
	ExitFailure   = 1 // it failed at run time
	ExitUsage     = 2 // the command line or the configuration is wrong
	ExitHostCheck = 3 // a check of this host failed
)

// Error is an error in the command line. It ends the process with [ExitUsage]. The zero
// value has no text; use [Errorf].
type Error struct{ message, hint string }

// Errorf returns a usage error without a hint. The message says what is wrong
// and quotes the value at fault: lower case, no full stop.
func Errorf(format string, args ...any) Error { return Error{message: fmt.Sprintf(format, args...)} }

// WithHint returns the error with a hint, which says what to type instead. An
// empty hint is none.
func (e Error) WithHint(hint string) Error {
	e.hint = hint
	return e
}

// Error returns what is wrong, without the hint.
func (e Error) Error() string { return e.message }

// Hint returns how to fix it, or "".
func (e Error) Hint() string { return e.hint }

// reported is the error of a command that has printed its result.
type reported struct{ code int }

// Error is not printed by [Report].
func (r reported) Error() string { return fmt.Sprintf("exit code %d", r.code) }

// Reported returns an error that ends the process with code and prints nothing.
// It is for a command whose output already says what failed.
func Reported(code int) error { return reported{code} }

// ExitCode returns the exit code for err. It is [ExitUsage] if err joins at least one
// usage or configuration error, because that probably caused the others.
func ExitCode(err error) int {
	var (
		done    reported
		mistake Error
		setting *config.Problem
		rule    *trust.Error
		target  *routing.UnresolvedError
	)
	switch {
	case err == nil:
		return ExitSuccess
	case errors.As(err, &done):
		return done.code
	case errors.As(err, &mistake), errors.As(err, &setting), errors.As(err, &rule), errors.As(err, &target):
		return ExitUsage
	}
	return ExitFailure
}

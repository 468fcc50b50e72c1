package routing

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"unproxy/transparent/returnpath"
)

// nft runs nft(8) with input as its standard input and returns its output.
func nft(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nft", args...)
	// Debian installs it in sbin, which is not in every user's PATH.
	if path, err := exec.LookPath("/usr/sbin/nft"); cmd.Err != nil && err == nil {
		cmd = exec.CommandContext(ctx, path, args...)
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return out.String(), failed("nft "+strings.Join(args, " "), err)
	}
	// nft has no exit code of its own for this error.
	if strings.Contains(errs.String(), "Operation not permitted") {
		return "", failed("nft "+strings.Join(args, " "), syscall.EPERM)
	}
	if strings.Contains(errs.String(), "Could not process rule: No such file or directory") {
		return "", failed("nft "+strings.Join(args, " "), fmt.Errorf("%s: %w", firstLine(errs.String()), errModule))
	}
	return "", failed("nft "+strings.Join(args, " "), fmt.Errorf("%s: %w", firstLine(errs.String()), err))
}

// Ruleset returns the output of "nft list ruleset". It needs CAP_NET_ADMIN; without
// it the error matches [io/fs.ErrPermission].
func Ruleset(ctx context.Context) (string, error) { return nft(ctx, "", "list", "ruleset") }

// tables returns the names of the inet tables that start with prefix.
func tables(ctx context.Context, prefix string) ([]string, error) {
	out, err := nft(ctx, "", "list", "tables", "inet")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, word := range strings.Fields(out) {
		if strings.HasPrefix(word, prefix) {
			all = append(all, word)
		}
	}
	return all, nil
}

func hasTable(ctx context.Context, name string) (bool, error) {
	all, err := tables(ctx, name)
	return slices.Contains(all, name), err
}

// addTable creates or replaces a table in one transaction. Without the deletion,
// a table that another process has created meanwhile would get each rule twice.
func addTable(ctx context.Context, f *returnpath.Filter) error {
	name := f.Name()
	_, err := nft(ctx, "table inet "+name+"\ndelete table inet "+name+"\n"+f.String(), "-f", "-")
	return err
}

func removeTable(ctx context.Context, f *returnpath.Filter, trace func(string)) error {
	exists, err := hasTable(ctx, f.Name())
	if err != nil || !exists {
		return err
	}
	return deleteTable(ctx, f.Name(), trace)
}

func deleteTable(ctx context.Context, name string, trace func(string)) error {
	trace("nft delete table inet " + name)
	_, err := nft(ctx, "", "delete", "table", "inet", name)
	return err
}

// firstLine returns the first line of a program's output, for an error.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return cmp.Or(line, "no output")
}

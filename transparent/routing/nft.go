package routing

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"unproxy/transparent/returnpath"
)

// nft runs nft(8) with input as its standard input.
func nft(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nft", args...)
	// Debian keeps it in sbin, which is not in every user's path.
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
	// nft has no code for it, and its words are all that tells.
	if strings.Contains(errs.String(), "Operation not permitted") {
		return "", failed("nft "+strings.Join(args, " "), syscall.EPERM)
	}
	return "", failed("nft "+strings.Join(args, " "), fmt.Errorf("%s: %w", firstLine(errs.String()), err))
}

// Ruleset returns all that the host's packet filter holds, as nft(8) lists it. It
// takes CAP_NET_ADMIN; the error of an ordinary user is [io/fs.ErrPermission].
func Ruleset(ctx context.Context) (string, error) { return nft(ctx, "", "list", "ruleset") }

// tables lists the tables of the packet filter whose names begin with prefix.
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
	return len(all) > 0, err
}

// addTable loads a table as a whole. One that was added meanwhile would have
// its rules twice: it is emptied first, in the same transaction.
func addTable(ctx context.Context, f *returnpath.Filter) error {
	name := f.Name()
	_, err := nft(ctx, "table inet "+name+"\ndelete table inet "+name+"\n"+f.String(), "-f", "-")
	return err
}

func removeTable(ctx context.Context, f *returnpath.Filter, trace func(string)) error {
	there, err := hasTable(ctx, f.Name())
	if err != nil || !there {
		return err
	}
	return deleteTable(ctx, f.Name(), trace)
}

func deleteTable(ctx context.Context, name string, trace func(string)) error {
	trace("nft delete table inet " + name)
	_, err := nft(ctx, "", "delete", "table", "inet", name)
	return err
}

// firstLine cuts what a program said down to what fits an error.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return cmp.Or(line, "it said nothing")
}

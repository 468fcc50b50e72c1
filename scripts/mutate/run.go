package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// verdict is what became of a mutant.
type verdict string

const (
	killed    verdict = "killed"    // a test failed
	endless   verdict = "endless"   // no end within the limit, or of memory: killed as well
	survived  verdict = "survived"  // all tests passed
	unbuilt   verdict = "unbuilt"   // the compiler rejected it: no mutant
	uncovered verdict = "uncovered" // all tests passed, and no test runs the code
)

// memoryLimit is what a mutant's tests may map, in KiB: one that appends for ever must
// not take the machine down.
const memoryLimit = 6 << 20

// collectedAbove makes the garbage collector keep tests that allocate much below that limit.
const collectedAbove = "GOMEMLIMIT=3GiB"

// lab builds and tests mutants of one package.
type lab struct {
	directory string   // of the package, from the root of the module
	tests     []string // directories of the packages whose tests are run
	selection selection
	switched  []trial // of tests, with the mutants behind switches
	scratch   string
	limit     time.Duration // of one mutant, in each package of tests
	quick     bool          // what survives behind its switch is not built alone
}

// build compiles the tests of a package into the file program.
func (l lab) build(ctx context.Context, tests, program string, flags ...string) error {
	args := append([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", program}, flags...)
	output, err := exec.CommandContext(ctx, "go", append(args, "./"+tests)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -c ./%s: %w\n%s", tests, err, output)
	}
	return nil
}

var errLimit, errFailed = errors.New("the limit passed"), errors.New("a test failed")

// failureWatch is the output of tests. It calls failed when a test has failed.
type failureWatch struct {
	text   bytes.Buffer // not embedded: its ReadFrom would be used in the place of Write
	failed func()
}

func (w *failureWatch) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	if w.failed != nil && bytes.Contains(w.text.Bytes(), []byte("--- FAIL: ")) {
		w.failed()
		w.failed = nil
	}
	return n, err
}

// trial is one run of a program of tests.
type trial struct {
	tests   string // directory of the package
	program string
	mutant  int // that is on, if the program has switches
	only    selection
	failing []string // tests that fail with all mutants off
	args    []string // of the program, in addition
	toFirst bool     // end with the first test that fails, also if others run beside it
}

// test runs a trial in the directory of its package and in a process group of its own,
// which is killed at the limit.
func (l lab) test(ctx context.Context, t trial) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.limit, errLimit)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	shell := "ulimit -v " + strconv.Itoa(memoryLimit) + `; exec "$0" "$@"`
	args := []string{"-c", shell, t.program, "-test.failfast", "-test.count=1"}
	args = slices.Concat(args, t.only.without(t.failing).flags(), t.args)
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Dir = t.tests
	// Tests that are killed leave files in TMPDIR.
	cmd.Env = append(os.Environ(), variable+"="+strconv.Itoa(t.mutant), collectedAbove, "TMPDIR="+l.scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for children that keep the output open
	var output failureWatch
	if t.toFirst {
		output.failed = func() { stop(errFailed) }
	}
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if cause := context.Cause(ctx); cause == errLimit || cause == errFailed {
		return output.text.String(), cause
	}
	return output.text.String(), err
}

// baseline runs the tests of the unchanged package: they must pass, and say what is
// reached and how long a mutant may take.
func (l *lab) baseline(ctx context.Context) (coverage, error) {
	var profile strings.Builder
	var slowest time.Duration
	profile.WriteString("mode: set\n")
	for i, tests := range l.tests {
		program := filepath.Join(l.scratch, fmt.Sprintf("baseline-%d", i))
		if err := l.build(ctx, tests, program, "-cover", "-coverpkg=./"+l.directory); err != nil {
			return nil, err
		}
		path := program + ".cover"
		start := time.Now()
		t := trial{tests: tests, program: program, only: l.selection, args: []string{"-test.coverprofile=" + path}}
		output, err := l.test(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("the tests of ./%s fail without a change: %w\n%s", tests, err, output)
		}
		took := time.Since(start)
		slowest = max(slowest, took)
		fmt.Printf("./%s: the tests take %v\n", tests, took.Round(10*time.Millisecond))
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		_, blocks, _ := strings.Cut(string(text), "\n")
		profile.WriteString(blocks)
	}
	l.limit = 10*time.Second + 20*slowest // other programs run beside the mutants
	return parseCoverage(profile.String())
}

// switches builds the programs that have the mutants behind switches. Tests that fail with
// all of them off, such as those that count allocations, are left out there.
func (l *lab) switches(ctx context.Context, p program) error {
	replaced := map[string][]byte{"mutated_switches.go": fmt.Appendf(nil, switches, p.name)}
	maps.Copy(replaced, p.switched)
	overlay, err := l.overlay("switched", replaced)
	if err != nil {
		return err
	}
	for i, tests := range l.tests {
		s := trial{tests: tests, only: l.selection, program: filepath.Join(l.scratch, fmt.Sprintf("switched-%d", i))}
		if err := l.build(ctx, tests, s.program, "-overlay="+overlay); err != nil {
			return fmt.Errorf("with switches: %w", err)
		}
		if s.failing, err = l.leftOut(ctx, s); err != nil {
			return err
		}
		l.switched = append(l.switched, s)
	}
	return nil
}

// leftOut returns the tests that fail with all mutants off.
func (l lab) leftOut(ctx context.Context, t trial) ([]string, error) {
	t.args = []string{"-test.failfast=false"}
	for range 5 { // a panic hides the tests behind it
		output, err := l.test(ctx, t)
		if err == nil {
			return t.failing, nil
		}
		found := regexp.MustCompile(`(?m)^--- FAIL: (\w+)`).FindAllStringSubmatch(output, -1)
		if len(found) == 0 {
			return nil, fmt.Errorf("the tests of ./%s fail with all mutants off: %w\n%s", t.tests, err, output)
		}
		for _, match := range found {
			t.failing = append(t.failing, match[1])
		}
	}
	return nil, fmt.Errorf("with all mutants off these tests of ./%s fail, and more: %q", t.tests, t.failing)
}

// try runs the tests with a mutant until one fails. What survives behind its switch, or has
// none, is built alone, and then meets all tests.
func (l lab) try(ctx context.Context, m mutant, worker int) (verdict, error) {
	if m.switched {
		v, err := l.run(ctx, l.switched, m.id)
		if v != survived || err != nil || l.quick {
			return v, err
		}
	}
	source, err := os.ReadFile(filepath.Join(l.directory, m.file))
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("mutant-%d", worker)
	overlay, err := l.overlay(name, map[string][]byte{m.file: m.apply(source)})
	if err != nil {
		return "", err
	}
	for _, tests := range l.tests {
		t := trial{tests: tests, program: filepath.Join(l.scratch, name)}
		if err := l.build(ctx, tests, t.program, "-overlay="+overlay); err != nil {
			return unbuilt, ctx.Err()
		}
		if v, err := l.run(ctx, []trial{t}, 0); v != survived || err != nil {
			return v, err
		}
	}
	return survived, nil
}

// run runs programs of tests, with a mutant on, until a test fails.
func (l lab) run(ctx context.Context, all []trial, mutant int) (verdict, error) {
	for _, stage := range l.selection.stages() {
		for _, t := range all {
			t.mutant, t.only, t.toFirst = mutant, stage, true
			output, err := l.test(ctx, t)
			switch {
			case ctx.Err() != nil:
				return "", ctx.Err()
			case errors.Is(err, errLimit), err != nil && strings.Contains(output, "out of memory"):
				return endless, nil
			case err != nil:
				return killed, nil
			}
		}
	}
	return survived, nil
}

// overlay writes changed or new files of the package, and returns the path of what tells
// the compiler to take them.
func (l lab) overlay(name string, files map[string][]byte) (string, error) {
	replace := map[string]string{}
	for file, content := range files {
		original, err := filepath.Abs(filepath.Join(l.directory, file))
		if err != nil {
			return "", err
		}
		replace[original] = filepath.Join(l.scratch, name+"-"+file)
		if err := os.WriteFile(replace[original], content, 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(l.scratch, name+".json")
	return path, os.WriteFile(path, text, 0o600)
}

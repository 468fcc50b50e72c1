// Mutate measures how strong the tests of a package are: it makes one small change after
// another, such as < for <=, and runs the tests. A change that no test notices survives.
//
//	go run ./scripts/mutate gateway/proxyproto
//	go run ./scripts/mutate -part 2/4 gateway/proxyproto        the second of four parts
//	go run ./scripts/mutate -match 'v1.go readPort' gateway/proxyproto
//	go run ./scripts/mutate -match '^relay.go' -run TestRelay gateway/engine   one file, by some tests
//	go run ./scripts/mutate -results killed.txt trust           goes on where it was interrupted
//
// scripts/mutate/survivors has a list for each package: which tests are run, and which
// survivors change nothing that anybody can see, with the reason. Exits with 0 if at least
// -goal percent of the other mutants that the tests reach are killed, 1 otherwise or if the
// list has an entry that is not needed, 2 on a wrong command line.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	directory   string
	match       *regexp.Regexp
	selection   selection
	part, parts int
	goal        float64
	verbose     bool
	quick       bool
	limit       time.Duration
	results     string
}

func main() {
	o, err := parseOptions(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	passed, err := measure(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
	if !passed {
		os.Exit(1)
	}
}

func parseOptions(args []string) (o options, err error) {
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	part := flags.String("part", "1/1", "try the mutants of part `N/M` only")
	match := flags.String("match", "", "try the mutants whose name, as in the output, matches `REGEXP` only")
	flags.StringVar(&o.selection.run, "run", "", "run the tests that match `REGEXP` only")
	flags.StringVar(&o.selection.skip, "skip", "", "do not run the tests that match `REGEXP`")
	flags.Float64Var(&o.goal, "goal", 97, "how many `percent` of the mutants must be killed")
	flags.BoolVar(&o.quick, "quick", false, "do not build survivors alone, for a first look: some would be killed then")
	flags.DurationVar(&o.limit, "limit", 0,
		"`time` after which a mutant is endless (default 10s and 20 times what the tests take)")
	flags.StringVar(&o.results, "results", "", "keep the verdicts in `FILE`: what they say is killed is not tried again")
	flags.BoolVar(&o.verbose, "v", false, "print every mutant")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() != 1 {
		return o, fmt.Errorf("%d packages, want one, such as gateway/proxyproto", flags.NArg())
	}
	if _, err := fmt.Sscanf(*part, "%d/%d", &o.part, &o.parts); err != nil || o.part < 1 || o.part > o.parts {
		return o, fmt.Errorf("-part %q: want a part of all, such as 2/4", *part)
	}
	if o.match, err = regexp.Compile(*match); err != nil {
		return o, fmt.Errorf("-match: %w", err)
	}
	o.directory = filepath.Clean(flags.Arg(0))
	return o, nil
}

// measure tries the mutants of the package and prints what became of them.
func measure(ctx context.Context, o options) (bool, error) {
	k, err := readKnown(listOf(o.directory))
	if err != nil {
		return false, err
	}
	code, err := readSources(o.directory)
	if err != nil {
		return false, err
	}
	p := mutate(code)
	earlier, err := readResults(o.results)
	if err != nil {
		return false, err
	}
	scratch, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(scratch)
	l := lab{
		directory: o.directory, tests: k.tests, selection: cmp.Or(o.selection, selection{later: k.later}),
		scratch: scratch, limit: baselineLimit, quick: o.quick,
	}
	if len(l.tests) == 0 {
		l.tests = []string{o.directory}
	}
	reached, err := l.baseline(ctx)
	if err != nil {
		return false, err
	}
	if o.limit > 0 {
		l.limit = o.limit
	}
	if err := l.switches(ctx, p); err != nil {
		return false, err
	}
	r := report{known: k, options: o, counts: map[verdict]int{}}
	r.stale(p.mutants)
	final, open := earlier.split(o.selected(p.mutants))
	for _, m := range final {
		r.add(m, earlier.verdict[m.name()])
	}
	err = l.tryAll(ctx, open, reached, func(m mutant, v verdict) error {
		r.add(m, v)
		return earlier.keep(m, v)
	})
	return r.finish(), err
}

// selected returns the mutants of the part that match. Parts take turns, so that each
// has some of every file.
func (o options) selected(all []mutant) []mutant {
	var chosen []mutant
	for i, m := range all {
		if i%o.parts == o.part-1 && o.match.MatchString(m.name()) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

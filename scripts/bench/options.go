package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"unproxy/scripts/bench/report"
)

// The modes of the gateway.
const (
	plain       = "plain"
	transparent = "transparent"
)

// options are the options of the command line.
type options struct {
	quick, json bool
	rounds      int
	duration    time.Duration
	match, only *regexp.Regexp
	mode        string
	sections    []string
	chart       string
	from        []string

	unproxy, haproxy, nginx []string
	peer                    peerOptions
}

// peerOptions describe a program that the bench does not know.
type peerOptions struct {
	command, name        string
	headers, transparent bool
}

const usage = `Compares unproxy on this machine with HAProxy, nginx, a relay with two goroutines per
connection, and no gateway ("direct"), and prints tables.

For every load, TCP and UDP, the gateway listens on 127.0.0.1:2000 and forwards to the
backend on 127.0.0.1:3000. --peer starts any command that does the same. In the command
{listen}, {backend} and {protocol} are replaced by 127.0.0.1:2000, 127.0.0.1:3000, and
tcp or udp:

  --peer 'go-mmproxy -l {listen} -4 {backend} -p {protocol}' --peer-name go-mmproxy --peer-headers --peer-transparent

`

// parse reads the command line.
func parse(name string, args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(out)
	f.Usage = func() {
		fmt.Fprint(out, usage)
		f.PrintDefaults()
	}
	f.BoolVar(&o.quick, "quick", false, "short runs of a few loads, to see that the benchmark works; fails if a run fails")
	f.IntVar(&o.rounds, "rounds", 5, "`number` of runs of each program with each load")
	f.DurationVar(&o.duration, "duration", 2*time.Second, "duration of a run")
	f.StringVar(&o.mode, "mode", "both", "`mode` of the gateway: plain, transparent or both")
	f.BoolVar(&o.json, "json", false, "print the runs as lines of JSON instead of tables")
	f.StringVar(&o.chart, "chart", "", "write SVG charts to this `directory`")
	f.StringVar(&o.peer.command, "peer", "", "another `command` to measure, see above")
	f.StringVar(&o.peer.name, "peer-name", "peer", "`name` of the --peer in the tables")
	f.BoolVar(&o.peer.headers, "peer-headers", false, "the --peer expects PROXY headers")
	f.BoolVar(&o.peer.transparent, "peer-transparent", false,
		"the --peer connects from the client's address: measure it in transparent instead of plain mode")
	expression(f, &o.match, "match", "measure only loads whose name matches this `regexp`")
	expression(f, &o.only, "programs", "measure only programs whose name matches this `regexp`")
	list(f, &o.sections, "section", "measure only this `section`, repeatable: "+strings.Join(sectionNames(), ", "))
	list(f, &o.from, "from", "do not measure, show the runs in this `file` from --json; repeatable")
	list(f, &o.unproxy, "unproxy",
		"the `program` to measure instead of building it; repeatable: the first one is compared with the others")
	list(f, &o.haproxy, "haproxy", "another `program` besides the HAProxy in PATH; repeatable")
	list(f, &o.nginx, "nginx", "another `program` besides the nginx in PATH; repeatable")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", f.Arg(0))
	}
	return o, o.check()
}

// check rejects invalid options.
func (o *options) check() error {
	if !slices.Contains([]string{plain, transparent, "both"}, o.mode) {
		return fmt.Errorf("--mode %q is not plain, transparent or both", o.mode)
	}
	for _, s := range o.sections {
		if !slices.Contains(sectionNames(), s) {
			return fmt.Errorf("--section %q is not one of %s", s, strings.Join(sectionNames(), ", "))
		}
	}
	if o.rounds < 1 || o.duration < time.Millisecond {
		return fmt.Errorf("--rounds %d --duration %v: the minimum is 1 and 1ms", o.rounds, o.duration)
	}
	if o.quick {
		o.rounds, o.duration = 1, 100*time.Millisecond
	}
	return nil
}

// modes lists the modes to measure.
func (o *options) modes() []string {
	if o.mode == "both" {
		return []string{plain, transparent}
	}
	return []string{o.mode}
}

func sectionNames() (names []string) {
	for _, s := range report.Sections() {
		names = append(names, s.Name)
	}
	return names
}

// list defines a flag that can be repeated.
func list(f *flag.FlagSet, to *[]string, name, about string) {
	f.Func(name, about, func(s string) error {
		*to = append(*to, s)
		return nil
	})
}

// expression defines a flag with a regular expression; nil matches everything.
func expression(f *flag.FlagSet, to **regexp.Regexp, name, about string) {
	f.Func(name, about, func(s string) (err error) {
		*to, err = regexp.Compile(s)
		return err
	})
}

// choose returns the selected runs, and those of unproxy to compare them with.
func (o *options) choose(runs []report.Run) []report.Run {
	return slices.DeleteFunc(runs, func(r report.Run) bool {
		return !slices.Contains(o.modes(), r.Mode) || !o.wants(r.Section) || !matches(o.match, r.Row) ||
			r.Program != report.Base && !matches(o.only, r.Program)
	})
}

// wants reports whether a section is selected.
func (o *options) wants(section string) bool {
	return len(o.sections) == 0 || slices.Contains(o.sections, section)
}

func matches(e *regexp.Regexp, s string) bool { return e == nil || e.MatchString(s) }

// readRuns reads files of runs.
func readRuns(paths []string) ([]report.Run, error) {
	var files []io.Reader
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	runs, err := report.Read(files...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(paths, ", "), err)
	}
	return runs, nil
}

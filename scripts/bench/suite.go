package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"unproxy/scripts/bench/load"
	"unproxy/scripts/bench/report"
)

// task is a row to measure with some programs, which take turns.
type task struct {
	row      row
	mode     string
	programs []program
}

// suite measures one task after the other.
type suite struct {
	options   options
	catalogue *catalogue
	clients   load.Clients
	progress  progress
	runs      []report.Run
	// gone has the programs that did not start, by section and mode.
	gone map[[3]string]bool
}

// measureAll measures what the options select, and prints it.
func measureAll(o options) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	runtime.LockOSThread() // for the load, and the children's parent-death signal
	descriptors, err := prepare()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "unproxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	c, err := newCatalogue(o, scratch, mostConnections(descriptors))
	if err != nil {
		return err
	}
	if slices.Contains(o.modes(), transparent) && o.wants("connections") && knowsTOA(c.unproxy[0].path) {
		if c.toa, err = newTOAGroup(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: --transparent toa is not measured:", err)
			c.toa.close()
			c.toa = nil
		}
		defer c.toa.close()
	}
	s := &suite{options: o, catalogue: c, gone: map[[3]string]bool{}}
	tasks, err := s.tasks()
	if err != nil {
		return err
	}
	if err := s.measure(ctx, tasks); err != nil {
		return err
	}
	return s.conclude()
}

// mostConnections returns the number of connections that a gateway can hold with two
// descriptors for each, and some for pipes.
func mostConnections(descriptors int) int { return (descriptors - 2*spliced - 140) / 2 }

// tasks returns what to measure: everything in plain mode, then the sections that differ
// in transparent mode.
func (s *suite) tasks() (tasks []task, err error) {
	for _, mode := range s.options.modes() {
		for _, section := range report.Sections() {
			if !s.options.wants(section.Name) || mode == transparent && s.catalogue.plainOnly(section.Name) ||
				s.options.quick && !quickly(section.Name, mode) {
				continue
			}
			programs, err := s.catalogue.programs(section.Name, mode)
			if err != nil {
				return nil, err
			}
			programs = slices.DeleteFunc(programs, func(p program) bool { return !matches(s.options.only, p.name) })
			if len(programs) == 0 {
				continue
			}
			for _, r := range s.rows(section.Name) {
				tasks = append(tasks, task{r, mode, programs})
			}
		}
	}
	if len(tasks) == 0 {
		return nil, errors.New("no load matches")
	}
	return tasks, nil
}

func (s *suite) rows(section string) []row {
	rows := rowsOf(section, s.catalogue.most)
	if s.options.quick && len(rows) > 0 {
		rows = []row{quickRow(rows)}
	}
	return slices.DeleteFunc(rows, func(r row) bool { return !matches(s.options.match, r.name) })
}

// measure measures the tasks until the context ends.
func (s *suite) measure(ctx context.Context, tasks []task) error {
	total := 0
	for _, t := range tasks {
		total += len(t.programs) * s.options.rounds
	}
	s.progress = newProgress(os.Stderr, total, s.options.duration)
	defer s.progress.end()
	routed := false
	for _, t := range tasks { // those in transparent mode are last
		if t.mode == transparent && !routed {
			if err := route(); err != nil {
				return err
			}
			routed = true
		}
		for round := range s.options.rounds {
			order := slices.Clone(t.programs)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, p := range order {
				if ctx.Err() != nil {
					return nil
				}
				if err := s.one(t, p, round+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// one does one run.
func (s *suite) one(t task, p program, round int) error {
	s.progress.next(fmt.Sprintf("%s, %s, %s mode: %s, round %d of %d", t.row.section, t.row.name, t.mode, p.name, round,
		s.options.rounds))
	gone := [3]string{t.row.section, t.mode, p.name}
	if s.gone[gone] {
		return nil
	}
	r := report.Run{Section: t.row.section, Row: t.row.name, Mode: t.mode, Program: p.name, Round: round}
	err := s.sample(&r, t.row, p)
	if errors.Is(err, errNoStart) {
		if p.name == report.Base {
			return err // nothing to compare with
		}
		s.gone[gone] = true
	}
	s.runs = append(s.runs, r)
	if s.options.json {
		return report.Write(os.Stdout, r)
	}
	return nil
}

// sample measures a run. A quick run that is not sane is repeated with more time: on a busy
// machine the time may end before the program was scheduled.
func (s *suite) sample(r *report.Run, load row, p program) (err error) {
	for d := s.options.duration; ; d *= 2 {
		runtime.GC()
		debug.SetGCPercent(-1) // a collection would wait for the load's thread
		r.Values, err = s.values(load, p, d)
		debug.SetGCPercent(100)
		r.Failure = ""
		if err != nil {
			r.Failure = err.Error()
		}
		if !s.options.quick || sane(*r) == nil || errors.Is(err, errNoStart) || d > longestQuick {
			return err
		}
	}
}

// longestQuick is the duration after which a quick run is not repeated.
const longestQuick = 10 * time.Second

func (s *suite) values(r row, p program, d time.Duration) (map[report.Metric]float64, error) {
	_, others := r.placement()
	if err := pin(0, others); err != nil {
		return nil, err
	}
	if len(r.groups) == 0 {
		return measureUDP(r.udp, p, d, s.catalogue.log())
	}
	return s.measureTCP(r, p, d)
}

// conclude prints the results. With --quick all runs must be sane.
func (s *suite) conclude() error {
	if len(s.runs) == 0 {
		return errors.New("interrupted before the first run")
	}
	if err := show(s.options, s.runs); err != nil || !s.options.quick {
		return err
	}
	for _, r := range s.runs {
		if err := sane(r); err != nil {
			return fmt.Errorf("%s, %s, %s mode, %s: %w", r.Section, r.Row, r.Mode, r.Program, err)
		}
	}
	return nil
}

// sane returns an error if a run failed, or if the gateway used no processor time.
func sane(r report.Run) error {
	if r.Failure != "" {
		return errors.New(r.Failure)
	}
	if r.Program == report.Direct || r.Section == "idle" {
		return nil
	}
	for _, m := range []report.Metric{report.CPU, report.CPUPerGB, report.CPUPercent} {
		if r.Values[m] > 0 {
			return nil
		}
	}
	return errors.New("the gateway used no processor time")
}

// show prints the tables, unless the runs were printed as JSON, and writes the charts.
func show(o options, runs []report.Run) error {
	if !o.json {
		if err := report.Table(os.Stdout, runs); err != nil {
			return err
		}
	}
	if o.chart == "" {
		return nil
	}
	files, err := report.Charts(o.chart, runs)
	if err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(os.Stderr, "bench: wrote", filepath.Join(o.chart, f))
	}
	return nil
}

// warmUp returns how long a load runs before it is measured for d.
func warmUp(d time.Duration) time.Duration { return min(d/4, 500*time.Millisecond) }

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"unproxy/scripts/bench/load"
	"unproxy/scripts/bench/report"
)

// errNoStart means that a program does not start and is not tried again.
var errNoStart = errors.New("the program does not start")

// patience is the maximum wait for the first response on a connection.
const patience = 2 * time.Second

// bench is a program under a load.
type bench struct {
	row     row
	load    *load.Load
	gateway *process // nil if there is none
	before  size     // of the gateway, without connections
}

// measureTCP runs a program and a backend under a row's load for d.
func (s *suite) measureTCP(r row, p program, d time.Duration) (map[report.Metric]float64, error) {
	if r.section == "slow" {
		restore, err := limitBuffers()
		if err != nil {
			return nil, err
		}
		defer restore()
	}
	onGateway, onLoad := r.placement()
	backend, err := start([]string{s.catalogue.self, backendPart}, onLoad, s.catalogue.log()+"-backend",
		listening("tcp", backendAddress.Port()))
	if err != nil {
		return nil, err
	}
	defer backend.stop()
	b := bench{row: r}
	config := load.Config{Gateway: gatewayAddress, Clients: &s.clients}
	if p.headers {
		config.Header = r.header
	}
	if p.command == nil {
		config.Gateway = backendAddress
	} else {
		b.gateway, err = start(r.limited(p.command), onGateway, s.catalogue.log(), listening("tcp", gatewayAddress.Port()))
		if err != nil {
			return nil, errors.Join(errNoStart, err)
		}
		defer b.gateway.stop()
		b.before = b.gateway.size()
	}
	if b.load, err = load.New(config, r.groups...); err != nil {
		return nil, err
	}
	defer b.load.Close()
	if err := b.load.Open(patience); err != nil {
		return nil, err
	}
	if r.section == "idle" {
		return b.idle()
	}
	return b.work(d)
}

// log returns the path of the programs' output.
func (c *catalogue) log() string { return filepath.Join(c.scratch, "log") }

// idle measures the cost of idle connections.
func (b *bench) idle() (map[report.Metric]float64, error) {
	if _, err := b.load.Run(200 * time.Millisecond); err != nil {
		return nil, err
	}
	held := float64(b.load.Held())
	if n, err := b.load.Errors(); n > 0 {
		return nil, fmt.Errorf("%d errors, the first: %w", n, err)
	}
	v := map[report.Metric]float64{report.Held: held}
	if b.gateway == nil {
		return v, nil
	}
	after := b.gateway.size()
	v[report.RSSEach] = float64(after.rss-b.before.rss) / held
	v[report.AnonymousEach] = float64(after.anonymous-b.before.anonymous) / held
	v[report.DescriptorsEach] = float64(after.descriptors-b.before.descriptors) / held
	v[report.RSS] = float64(after.rss) / (1 << 20)
	return v, nil
}

// work measures what is done in d.
func (b *bench) work(d time.Duration) (map[report.Metric]float64, error) {
	if _, err := b.load.Run(warmUp(d)); err != nil {
		return nil, err
	}
	if b.gateway != nil {
		b.gateway.look()
	}
	before, err := b.runTime()
	if err != nil {
		return nil, err
	}
	b.load.Reset()
	elapsed, err := b.load.Run(d)
	if err != nil {
		return nil, err
	}
	after, err := b.runTime()
	if err != nil {
		return nil, err
	}
	if n, err := b.load.Errors(); n > 0 {
		return nil, fmt.Errorf("%d errors, the first: %w", n, err)
	}
	v, err := b.done(elapsed)
	if err == nil && b.gateway != nil {
		b.cost(v, after-before, elapsed)
	}
	return v, err
}

// runTime returns the gateway's processor time.
func (b *bench) runTime() (time.Duration, error) {
	if b.gateway == nil {
		return 0, nil
	}
	return b.gateway.runTime()
}

// done returns what the groups of connections did.
func (b *bench) done(elapsed time.Duration) (map[report.Metric]float64, error) {
	v := map[report.Metric]float64{report.Held: float64(b.row.connections())}
	for i, g := range b.row.groups {
		c := &b.load.Counts()[i]
		switch {
		case g.Work == load.Idle, g.Work == load.Blocked:
			continue
		case c.Answers == 0 && c.Bytes == 0:
			return nil, fmt.Errorf("no response, in group %d", i+1)
		case g.Work == load.PingPong:
			v[report.OperationsPerSecond] = float64(c.Answers) / elapsed.Seconds()
			latencies(v, &c.Latency)
		case g.Work == load.Untrusted, g.Work == load.Denied:
			v[report.RefusalsPerSecond] = float64(c.Answers) / elapsed.Seconds()
			latencies(v, &c.Latency)
		case g.Work == load.Connect:
			v[report.ConnectionsPerSecond] = float64(c.Answers) / elapsed.Seconds()
			if _, beside := v[report.P50]; !beside {
				latencies(v, &c.Latency)
			}
		default:
			v[report.GigabitsPerSecond] = float64(c.Bytes) * 8 / 1e9 / elapsed.Seconds()
		}
	}
	return v, nil
}

func latencies(v map[report.Metric]float64, h *load.Histogram) {
	for m, p := range map[report.Metric]float64{report.P50: 0.5, report.P99: 0.99, report.P999: 0.999} {
		v[m] = float64(h.Percentile(p).Nanoseconds()) / 1000
	}
}

// cost adds the gateway's processor time and memory.
func (b *bench) cost(v map[report.Metric]float64, cpu, elapsed time.Duration) {
	v[report.CPUPercent] = 100 * cpu.Seconds() / elapsed.Seconds()
	v[report.RSS] = float64(b.gateway.size().rss) / (1 << 20)
	units := v[report.OperationsPerSecond] + v[report.ConnectionsPerSecond] + v[report.RefusalsPerSecond]
	if units > 0 {
		v[report.CPU] = float64(cpu.Nanoseconds()) / 1000 / (units * elapsed.Seconds())
		return
	}
	v[report.CPUPerGB] = cpu.Seconds() * 1000 / (v[report.GigabitsPerSecond] / 8 * elapsed.Seconds())
}

package main

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/scripts/bench/report"
)

// udpLoad is an exchange of datagrams with a number of flows.
type udpLoad struct{ flows, size int }

// udpRows returns the loads. Their windows are small enough that no loss is necessary.
func udpRows() (rows []row) {
	for _, size := range []int{64, 1200} {
		for _, flows := range []int{1, 100, 10000} {
			rows = append(rows, row{name: amount(size) + ", " + plural(flows, "flow"), udp: udpLoad{flows, size}})
		}
	}
	return rows
}

func (l udpLoad) window() int {
	if l.flows == 1 {
		return 64
	}
	return 256
}

// measureUDP runs a program under a load of datagrams, with the backend in this
// process.
func measureUDP(l udpLoad, p program, d time.Duration, log string) (map[report.Metric]float64, error) {
	var stop atomic.Bool
	fd, err := socket(backendAddress.Addr().As4(), int(backendAddress.Port()), unix.Timeval{Usec: 50000})
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		echo(fd, &stop)
	}()
	defer func() {
		stop.Store(true)
		<-ended
		unix.Close(fd)
	}()
	gateway, err := start(p.command, gatewayCores(), log, listening("udp", gatewayAddress.Port()))
	if err != nil {
		return nil, errors.Join(errNoStart, err)
	}
	defer gateway.stop()
	return underDatagrams(l, p, gateway, d)
}

// underDatagrams counts what a running gateway does in d.
func underDatagrams(u udpLoad, p program, gateway *process, d time.Duration) (map[report.Metric]float64, error) {
	l, err := newDatagrams(u, p.headers)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if _, err := l.run(min(d, 500*time.Millisecond)); err != nil {
		return nil, err
	}
	gateway.look()
	before, err := gateway.runTime()
	if err != nil {
		return nil, err
	}
	c, err := l.run(d)
	if err != nil {
		return nil, err
	}
	after, err := gateway.runTime()
	if err != nil {
		return nil, err
	}
	if c.received == 0 {
		return nil, errors.New("no reply")
	}
	return map[report.Metric]float64{
		report.DatagramsPerSecond: float64(c.received) / c.elapsed.Seconds(),
		report.Lost:               100 * float64(c.lost) / float64(c.sent),
		report.CPU:                float64((after - before).Nanoseconds()) / 1000 / float64(c.received),
		report.RSS:                float64(gateway.size().rss) / (1 << 20),
	}, nil
}

package main

import (
	"fmt"
	"slices"
	"strings"

	"unproxy/scripts/bench/load"
)

// row is one kind of load.
type row struct {
	section, name string
	groups        []load.Group // TCP, if there are any
	header        load.Header
	udp           udpLoad
	// descriptors is the gateway's limit on open files, as it starts; 0 is that of the bench.
	descriptors int
}

// limited returns a gateway's command with the row's limit on open files.
func (r row) limited(command []string) []string {
	if r.descriptors == 0 {
		return command
	}
	return append([]string{"prlimit", fmt.Sprintf("--nofile=%[1]d:%[1]d", r.descriptors), "--"}, command...)
}

// connections returns the number of concurrent connections of a row.
func (r row) connections() (n int) {
	for _, g := range r.groups {
		n += g.Connections
	}
	return n
}

// rowsOf returns the loads of a section with at most a number of connections. --quick runs
// the first one.
func rowsOf(section string, most int) []row {
	var rows []row
	switch section {
	case "pingpong":
		rows = pingPongRows()
	case "connections":
		rows = connectionRows()
	case "bulk":
		rows = bulkRows()
	case "idle":
		rows = []row{idleRow("1000 connections", 1000), idleRow("5000 connections", 5000),
			idleRow("as many as descriptors allow", most)}
	case "slow":
		rows = []row{slowRow(4000, 0), slowRow(350, 1024)}
	case "refuse":
		rows = []row{refusalRow("untrusted peers", load.Untrusted), refusalRow("denied clients, v2", load.Denied)}
	case "fairness":
		beside := load.Group{Work: load.PingPong, Connections: 16, Size: 64}
		rows = []row{
			{name: "1 stream down", groups: []load.Group{beside, {Work: load.Down, Connections: 1}}},
			{name: "4 streams up", groups: []load.Group{beside, {Work: load.Up, Connections: 4}}},
		}
	case "mixed":
		rows = []row{{name: "32 + 16 + 2", groups: []load.Group{
			{Work: load.PingPong, Connections: 32, Size: 4096}, {Work: load.Connect, Connections: 16, Size: 64},
			{Work: load.Down, Connections: 2},
		}}}
	case "growth":
		rows = growthRows(most)
	case "loops":
		rows = loopRows()
	case "log":
		rows = []row{connectionRow("v2", load.V2)}
	case "spin":
		rows = []row{pingPongRow(64, 1)}
	case "udp":
		rows = udpRows()
	}
	for i := range rows {
		rows[i].section = section
		if rows[i].header == load.NoHeader {
			rows[i].header = load.V2
		}
	}
	return slices.DeleteFunc(rows, func(r row) bool { return r.connections() > most })
}

func pingPongRows() (rows []row) {
	for _, size := range []int{64, 4096, 65536} {
		for _, connections := range []int{1, 64, 512, 1000} {
			rows = append(rows, pingPongRow(size, connections))
		}
	}
	// Messages that bulk mode applies to, although each waits for the one before.
	return append(rows, pingPongRow(300<<10, 1), pingPongRow(300<<10, 64))
}

func pingPongRow(size, connections int) row {
	return row{
		name:   fmt.Sprintf("%s, %s", amount(size), plural(connections, "connection")),
		groups: []load.Group{{Work: load.PingPong, Connections: connections, Size: size}},
	}
}

func connectionRows() []row {
	held := connectionRow("v2, 5000 others are open", load.V2)
	held.groups = slices.Insert(held.groups, 0, load.Group{Work: load.Idle, Connections: 5000, Size: 64})
	return []row{
		connectionRow("v1", load.V1), connectionRow("v2", load.V2), connectionRow("v2 with TLVs", load.V2TLVs), held,
	}
}

func connectionRow(name string, h load.Header) row {
	return row{name: name, header: h, groups: []load.Group{{Work: load.Connect, Connections: 64, Size: 64}}}
}

// loopRows are the loads for gateways with several threads.
func loopRows() []row {
	many := connectionRow("connections, 256 at a time", load.V2)
	many.groups[0].Connections = 256
	return []row{connectionRow("connections, 64 at a time", load.V2), many, pingPongRow(64, 64), pingPongRow(64, 512)}
}

// placement returns the cores of the gateway, and those of load and backend. All share two cores if
// the gateway has several threads.
func (r row) placement() (gateway, others cores) {
	if r.section == "loops" {
		return sharedCores(), sharedCores()
	}
	return gatewayCores(), loadCores()
}

func bulkRows() (rows []row) {
	for _, way := range []struct {
		name string
		work load.Work
	}{{"down", load.Down}, {"up", load.Up}, {"both ways", load.Both}} {
		for _, streams := range []int{1, 8, 32} {
			rows = append(rows, row{
				name:   fmt.Sprintf("%s, %s", way.name, plural(streams, "stream")),
				groups: []load.Group{{Work: way.work, Connections: streams}},
			})
		}
	}
	return rows
}

func idleRow(name string, connections int) row {
	return row{name: name, groups: []load.Group{{Work: load.Idle, Connections: connections, Size: 64}}}
}

// slowRow is readers that do not read, and new connections beside them.
func slowRow(readers, descriptors int) row {
	r := row{name: plural(readers, "slow reader"), descriptors: descriptors, groups: []load.Group{
		{Work: load.Blocked, Connections: readers}, {Work: load.Connect, Connections: 8, Size: 64},
	}}
	if descriptors > 0 {
		r.name += fmt.Sprintf(", %d descriptors", descriptors)
	}
	return r
}

// refusalRow is connections that are refused.
func refusalRow(name string, w load.Work) row {
	return row{name: name, groups: []load.Group{{Work: w, Connections: 64, Size: 64}}}
}

// growthRows are ping-pong with a growing number of connections. The cost per operation
// should stay the same.
func growthRows(most int) (rows []row) {
	for _, open := range []int{1, 10, 100, 1000, 9000} {
		active := min(64, open)
		groups := []load.Group{{Work: load.PingPong, Connections: active, Size: 64}}
		if open > active {
			groups = slices.Insert(groups, 0, load.Group{Work: load.Idle, Connections: open - active, Size: 64})
		}
		rows = append(rows, row{name: fmt.Sprintf("%d open, %d active", open, active), groups: groups})
	}
	for _, open := range []int{100, 1000} { // with fewer connections all are active anyway
		rows = append(rows, row{name: fmt.Sprintf("%d open, all active", open),
			groups: []load.Group{{Work: load.PingPong, Connections: open, Size: 64}}})
	}
	return rows
}

// quickRow returns the row of a section for --quick.
func quickRow(rows []row) row {
	switch rows[0].section {
	case "pingpong":
		return rows[1]
	case "idle":
		r := idleRow("200 connections", 200)
		r.section, r.header = rows[0].section, rows[0].header
		return r
	case "slow":
		return slowQuickRow(rows[1])
	case "growth":
		return rows[min(2, len(rows)-1)] // with idle connections
	}
	return rows[0]
}

// quickly reports whether --quick runs a section in a mode. In transparent mode it omits the
// sections that mix other loads.
func quickly(section, mode string) bool {
	return mode == plain || section != "fairness" && section != "mixed"
}

func plural(n int, what string) string {
	return fmt.Sprintf("%d %s%s", n, what, strings.Repeat("s", min(1, n-1)))
}

func amount(n int) string {
	if n%1024 != 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d KiB", n/1024)
}

// slowQuickRow is a row with fewer slow readers.
func slowQuickRow(r row) row {
	r.groups = slices.Clone(r.groups)
	r.name, r.groups[0].Connections = "50 slow readers", 50
	return r
}

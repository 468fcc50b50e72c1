package main

import (
	"strings"
	"testing"
	"time"

	"unproxy/scripts/bench/load"
	"unproxy/scripts/bench/report"
)

// The loads of a section have different names, and none has more connections than allowed.
func TestRows(t *testing.T) {
	const most = 9850
	for _, section := range sectionNames() {
		rows := rowsOf(section, most)
		if len(rows) == 0 {
			t.Errorf("%s has no loads", section)
			continue
		}
		names := map[string]bool{}
		for _, r := range rows {
			if names[r.name] || r.name == "" || r.section != section {
				t.Errorf("%s has %q twice", r.section, r.name)
			}
			names[r.name] = true
			if r.connections() > most || r.header == load.NoHeader {
				t.Errorf("%s, %s: %d connections, header %d", section, r.name, r.connections(), r.header)
			}
			if (len(r.groups) == 0) != (section == "udp") || (r.udp.flows > 0) != (section == "udp") {
				t.Errorf("%s, %s: %+v", section, r.name, r)
			}
		}
		if q := quickRow(rows); q.section != section || q.header == load.NoHeader || q.connections() > 200 {
			t.Errorf("--quick runs %s with %s", section, q.name)
		}
	}
}

// With few descriptors there are fewer loads.
func TestFewDescriptorsLimitTheLoads(t *testing.T) {
	for _, section := range sectionNames() {
		for _, r := range rowsOf(section, mostConnections(1024)) {
			if r.connections() > 362 {
				t.Errorf("%s, %s has %d connections", section, r.name, r.connections())
			}
		}
	}
}

func TestRough(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 s", 90 * time.Second: "90 s", 150 * time.Second: "2 min",
		2 * time.Hour: "120 min"} {
		if got := rough(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := progress{out: &b, total: 4, guess: time.Minute, start: time.Now()}
	p.next("first")
	if got := b.String(); got != "1 of 4, 4 min left: first\n" {
		t.Errorf("%q", got)
	}
}

func TestSane(t *testing.T) {
	for _, row := range []struct {
		run  report.Run
		want string
	}{
		{report.Run{Program: "a", Values: map[report.Metric]float64{report.CPU: 1}}, ""},
		{report.Run{Program: "a", Values: map[report.Metric]float64{report.CPUPerGB: 1}}, ""},
		{report.Run{Program: report.Direct}, ""},
		{report.Run{Program: "a", Values: map[report.Metric]float64{report.OperationsPerSecond: 1}},
			"the gateway used no processor time"},
		{report.Run{Program: "a", Failure: "reset"}, "reset"},
		{report.Run{Program: report.Direct, Failure: "reset"}, "reset"},
	} {
		got := ""
		if err := sane(row.run); err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%+v: %q", row.run, got)
		}
	}
}

// Package report stores the results of the benchmark as lines of JSON, and shows them as
// tables and charts.
package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Base is the name of the program that the others are compared with.
const Base = "unproxy"

// Direct is the name for no gateway, the upper limit for the programs.
const Direct = "direct"

// Run is one run of a program under a load, and a line of JSON.
type Run struct {
	Section string `json:"section"`
	Row     string `json:"row"`
	Mode    string `json:"mode"`
	Program string `json:"program"`
	// Round counts from 1. Runs of the same round follow each other.
	Round  int                `json:"round"`
	Values map[Metric]float64 `json:"values,omitempty"`
	// Failure is the reason why the run does not count, "" if it counts.
	Failure string `json:"failure,omitempty"`

	file int // index of the file that it was read from
}

// Metric is the name of a value in JSON. It ends with the unit.
type Metric string

// The metrics. Processor time and memory are the gateway's.
const (
	OperationsPerSecond  Metric = "operations_per_s"
	ConnectionsPerSecond Metric = "connections_per_s"
	RefusalsPerSecond    Metric = "refusals_per_s"
	DatagramsPerSecond   Metric = "datagrams_per_s" // there and back
	GigabitsPerSecond    Metric = "gbit_per_s"
	P50                  Metric = "p50_us"
	P99                  Metric = "p99_us"
	P999                 Metric = "p999_us"
	// CPU is processor time per operation, connection, refusal or datagram.
	CPU        Metric = "cpu_us"
	CPUPerGB   Metric = "cpu_ms_per_gb"
	CPUPercent Metric = "cpu_percent" // of one core
	RSS        Metric = "rss_mb"
	Lost       Metric = "lost_percent"
	// Held is the number of open connections.
	Held Metric = "held"
	// RSSEach and AnonymousEach are the growth of VmRSS and RssAnon (proc(5)) per
	// connection. The latter excludes pages of the program file.
	RSSEach         Metric = "rss_bytes_per_connection"
	AnonymousEach   Metric = "anonymous_bytes_per_connection"
	DescriptorsEach Metric = "descriptors_per_connection"
)

// Write appends a run as a line of JSON.
func Write(w io.Writer, r Run) error { return json.NewEncoder(w).Encode(r) }

// Read reads the output of [Write] from several files. Runs from different files are never
// in the same round.
func Read(files ...io.Reader) (all []Run, err error) {
	for i, f := range files {
		for d := json.NewDecoder(bufio.NewReader(f)); ; {
			r := Run{file: i}
			err := d.Decode(&r)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("run %d: %w", len(all)+1, err)
			}
			all = append(all, r)
		}
	}
	return all, nil
}

// moment is equal for runs that can be compared.
type moment struct{ file, round int }

func (r Run) moment() moment { return moment{r.file, r.Round} }

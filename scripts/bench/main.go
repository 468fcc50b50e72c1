// Bench measures the gateway beside what people would use instead, on this
// machine: the gateway on core 0, load and backend on core 1, on loopback in a
// network namespace of its own. The programs take turns, so that what else the
// machine does meanwhile meets all of them.
//
//	go run ./scripts/bench                        # a few minutes
//	go run ./scripts/bench --quick                # half a minute, that it works
//	go run ./scripts/bench --peer 'other --listen 127.0.0.1:2000 --to 127.0.0.1:3000'
//
// It measures UDP: datagrams there and back in a second, how many were lost, and
// the gateway's processor time for each. Only unproxy gets PROXY headers; a --peer
// does with --peer-headers.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == relayCommand {
		fmt.Fprintln(os.Stderr, relayUDP(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "short runs: that it works, not how fast")
	flag.IntVar(&o.rounds, "rounds", 5, "runs of each program for each row")
	flag.DurationVar(&o.duration, "duration", 2e9, "of a run")
	flag.StringVar(&o.unproxy, "unproxy", "", "the program to measure; it is built if none is given")
	flag.StringVar(&o.peer, "peer", "", "a command that forwards UDP from 127.0.0.1:2000 to 127.0.0.1:3000")
	flag.StringVar(&o.match, "match", "", "only loads with this text in their name, such as '10000 flows'")
	flag.BoolVar(&o.peerHeaders, "peer-headers", false, "send PROXY headers to --peer as well")
	flag.BoolVar(&o.json, "json", false, "print the runs as JSON, one a line, instead of the table")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

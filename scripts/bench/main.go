// Bench compares the gateway with its alternatives on this machine: the gateway runs on
// core 0, load and backend on core 1, on loopback in a separate network namespace. The
// programs take turns, so other activity of the machine affects all of them. Each run
// starts a new process of its program.
//
//	go run ./scripts/bench                        # everything; it prints how long it takes
//	go run ./scripts/bench --quick                # half a minute, to see that it works
//	go run ./scripts/bench --section pingpong --mode plain --match '^64 B' --rounds 3
//	go run ./scripts/bench --json >runs.json      # one run a line, no table
//	go run ./scripts/bench --from runs.json --chart docs/charts
//	go run ./scripts/bench --haproxy ~/haproxy-3.5/haproxy
//	go run ./scripts/bench --peer 'go-mmproxy -l {listen} -4 {backend}' --peer-name go-mmproxy \
//	  --peer-headers --peer-transparent
//
// It needs two cores and ip (iproute2), and measures HAProxy and nginx with its stream
// module if they are installed; it reports what is missing. Without root it uses a user
// namespace. Without --unproxy it needs Go.
//
// When interrupted, it prints the results so far.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
)

func main() {
	if len(os.Args) > 1 && isPart(os.Args[1]) {
		fmt.Fprintln(os.Stderr, "bench:", playPart(os.Args[1], os.Args[2:]))
		os.Exit(1)
	}
	o, err := parse(os.Args[0], os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(o)
	}
	var inner *exec.ExitError // the inner process has printed the error
	if err != nil && !errors.As(err, &inner) {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// run measures, or shows earlier results.
func run(o options) error {
	if len(o.from) > 0 {
		runs, err := readRuns(o.from)
		if err != nil {
			return err
		}
		return show(o, o.choose(runs))
	}
	if os.Getenv(namespaced) == "" {
		return again()
	}
	return measureAll(o)
}

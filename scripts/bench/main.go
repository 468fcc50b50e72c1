// Bench measures the gateway beside what people would use instead, on this
// machine: the gateway on core 0, load and backend on core 1, on loopback in a
// network namespace of its own. The programs take turns, so that what else the
// machine does meanwhile meets all of them, and each run starts its program afresh.
//
//	go run ./scripts/bench                        # everything; it says how long it takes
//	go run ./scripts/bench --quick                # half a minute, that it works
//	go run ./scripts/bench --section pingpong --mode plain --match '^64 B' --rounds 3
//	go run ./scripts/bench --json >runs.json      # one run a line, no table
//	go run ./scripts/bench --from runs.json --chart docs/charts
//	go run ./scripts/bench --haproxy ~/haproxy-3.5/haproxy
//	go run ./scripts/bench --peer 'go-mmproxy -l {listen} -4 {backend}' --peer-name go-mmproxy --peer-headers --peer-transparent
//
// What it needs: two cores, ip (iproute2), and of HAProxy, nginx and its stream
// module what is to be measured; it says what it does not find. Root is not needed:
// without it the namespace is a user namespace. Go is, unless --unproxy is given.
//
// Interrupted, it prints what it has.
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
	var inner *exec.ExitError // it has said what is wrong
	if err != nil && !errors.As(err, &inner) {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// run shows what was measured before, or measures.
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

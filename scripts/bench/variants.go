package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"unproxy/scripts/bench/load"
)

// plainOnly reports whether a section is measured in plain mode only: transparent mode
// would show nothing new, or there is no program to compare with, as over UDP without a
// --peer.
func (c *catalogue) plainOnly(section string) bool {
	switch section {
	case "growth", "slow", "refuse", "log", "spin", "loops":
		return true
	}
	return section == "udp" && !c.peer.transparent
}

// programs lists the programs of a section.
func (c *catalogue) programs(section, mode string) ([]program, error) {
	switch section {
	case "udp":
		return c.udp(mode)
	case "log":
		return c.logging(mode), nil
	case "spin":
		return c.spinning(mode)
	case "loops":
		return c.parallel(mode)
	case "refuse":
		return c.refusing(mode)
	}
	all, err := c.tcp(mode)
	if err == nil && section == "connections" && mode == transparent && c.toa != nil {
		all = append(all, c.toa.carrying(c.unproxyTCP(c.unproxy[0], mode, variant{})))
	}
	if err == nil && section == "bulk" {
		return c.splicing(all, mode)
	}
	if section == "growth" { // direct has no gateway, so no cost
		all = slices.DeleteFunc(all, func(p program) bool { return p.command == nil })
	}
	return all, err
}

// logging returns unproxy with and without its access log.
func (c *catalogue) logging(mode string) []program {
	with := func(v variant) program { return c.unproxyTCP(c.unproxy[0], mode, v) }
	return []program{
		with(variant{}),
		with(variant{name: ", log", args: logged}),
		with(variant{name: ", log, admin", args: slices.Concat(logged, []string{"--admin", "127.0.0.1:9180"})}),
	}
}

// logged are the flags for an access log into a file.
var logged = []string{"--access-log", "all", "--log-level", "info", "--log-format", "json"}

// spinning returns programs that poll for events before they sleep, and the same programs
// without that. It returns none if unproxy has no --spin.
func (c *catalogue) spinning(mode string) (all []program, err error) {
	help, err := exec.Command(c.unproxy[0].path, "serve", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "--spin") {
		fmt.Fprintln(os.Stderr, "bench: busy polling is not measured, this unproxy has no --spin")
		return nil, nil
	}
	all = []program{
		c.unproxyTCP(c.unproxy[0], mode, variant{}),
		c.unproxyTCP(c.unproxy[0], mode, variant{name: ", spin", args: []string{"--access-log", "off", "--spin", "50us"}}),
	}
	others, err := c.haproxies(mode, variant{}, variant{name: ", busy-polling", global: "busy-polling"})
	return append(all, others...), err
}

// parallel returns programs with two threads, and the same programs with one.
func (c *catalogue) parallel(mode string) (all []program, err error) {
	for _, v := range []variant{{threads: 2}, {name: ", 1 loop"}} {
		all = append(all, c.unproxyTCP(c.unproxy[0], mode, v))
	}
	others, err := c.haproxies(mode, variant{threads: 2}, variant{name: ", 1 thread"})
	return append(all, others...), err
}

// refusing returns programs that trust only the load's usual addresses, and deny all of its clients:
// both before the backend, and in HAProxy as early as its rules allow.
func (c *catalogue) refusing(mode string) (all []program, err error) {
	rules := []string{"--trust", load.Peers.String(), "--deny-client", load.ClientNetwork.String()}
	for _, e := range c.unproxy {
		all = append(all, c.unproxyTCP(e, mode, variant{trust: rules}))
	}
	all = append(all, c.unproxyTCP(c.unproxy[0], mode, variant{name: ", log", trust: rules, args: logged}))
	others, err := c.haproxies(mode, variant{name: ", reject", rules: []string{
		fmt.Sprintf("tcp-request connection reject unless { src %v }", load.Peers),
		fmt.Sprintf("tcp-request session reject if { src %v }", load.ClientNetwork),
	}})
	return append(all, others...), err
}

// splicing adds HAProxy with splice(2) always on, which is better at bulk transfers and
// worse at everything else.
func (c *catalogue) splicing(all []program, mode string) ([]program, error) {
	for _, e := range c.haproxy {
		p, err := c.haproxyTCP(e, mode, variant{name: ", splice always", splice: true})
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(p program) bool { return p.name == e.name })
		all = slices.Insert(all, i+1, p)
	}
	return all, nil
}

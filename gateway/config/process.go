package config

import (
	"fmt"
	"time"

	"unproxy/gateway/config/value"
)

// ProcessSetting is one thing that can be set for the process as a whole.
type ProcessSetting struct {
	// Name is the flag without its dashes.
	Name string
	// Argument, Default and Meaning are as in [Setting].
	Argument, Default, Meaning string
	// Routes says that it is about the rules and routes of transparent mode.
	Routes bool

	set func(*Config, string) error
}

// ProcessSettings returns every setting of the process, in the order in which
// help lists them. The flags [MaxConnections] and [MaxFlows] are not among them:
// they are listed with the settings of forwards.
func ProcessSettings() []ProcessSetting {
	return []ProcessSetting{
		{Name: "loops", Argument: "N", Default: "CPUs", set: setLoops,
			Meaning: "event loops, each with a thread of its own"},
		{Name: "spin", Argument: "D", Default: "off", set: setSpin,
			Meaning: "after an event, look for the next one for so long without sleeping: lower latency of few connections, for a CPU at 100 %"},
		{Name: maxWaiting, Argument: "N", Default: "half of --max-connections", set: setMaxWaiting,
			Meaning: "connections that wait for their header; beyond it the one that waits longest is reset; 0 is off"},
		{Name: "drain-delay", Argument: "D", Default: "0s", set: setDrainDelay,
			Meaning: "go on accepting for so long after SIGTERM"},
		{Name: "drain-timeout", Argument: "D", Default: "30s", set: setDrainTimeout,
			Meaning: "then let connections finish for so long"},
		{Name: selfTestInterval, Argument: "D", Default: "30s", set: setSelfTestInterval,
			Meaning: "transparent: how often backends' replies to clients are tested; 0 is off"},
		{Name: "reload-interval", Argument: "D", Default: "off", set: setReloadInterval,
			Meaning: "look so often whether trust files have changed, and reload"},
		{Name: "upgrade-timeout", Argument: "D", Default: "30s", set: setUpgradeTimeout,
			Meaning: "until the process that takes over at SIGUSR2 serves"},
		{Name: "route-table", Argument: "N", Default: "7700", set: setRouteTable, Routes: true,
			Meaning: "routing table in which everything is local"},
		{Name: "rule-preference", Argument: "N", Default: "7700", set: setRulePreference, Routes: true,
			Meaning: "place of the rules that lead there; two gateways of one host with the same backends take two"},
		{Name: "route-mark", Argument: "N", Default: "7700", set: setRouteMark, Routes: true,
			Meaning: "first of three marks that the packet filter uses: N, N+1 and N+2"},
		{Name: "recipe", Argument: "auto|rules|marks", Default: "auto", set: setRecipe, Routes: true,
			Meaning: "rules by address and port, marks by the packet filter, or what hits nothing else"},
	}
}

func setMaxWaiting(c *Config, v string) error {
	return count([]string{v}, &c.MaxWaiting)
}

func setReloadInterval(c *Config, v string) (err error) {
	c.ReloadInterval, err = value.Duration(v, 100*time.Millisecond)
	return err
}

func setUpgradeTimeout(c *Config, v string) error {
	d, err := value.Duration(v, 100*time.Millisecond)
	if err == nil && d == 0 {
		err = &value.Error{Why: "leaves the new process no time", Instead: "30s"}
	}
	c.UpgradeTimeout = d
	return err
}

func setDrainDelay(c *Config, v string) (err error) {
	c.DrainDelay, err = value.Duration(v, time.Millisecond)
	return err
}

// selfTestInterval is the setting that does nothing without a transparent forward.
const selfTestInterval = "self-test-interval"

// setSelfTestInterval keeps the tests from being a load on backends.
func setSelfTestInterval(c *Config, v string) (err error) {
	c.SelfTestInterval, err = value.Duration(v, time.Millisecond)
	if err == nil && c.SelfTestInterval > 0 && c.SelfTestInterval < time.Second {
		err = &value.Error{Why: "is less than a second", Instead: "1s"}
	}
	return err
}

func setDrainTimeout(c *Config, v string) (err error) {
	c.DrainTimeout, err = value.Duration(v, time.Millisecond)
	return err
}

func setLoops(c *Config, v string) error {
	n, err := value.Count(v, 1024)
	if err == nil && n == 0 {
		err = &value.Error{Why: "leaves nobody to do the work", Instead: "1"}
	}
	c.Loops = int(n)
	return err
}

// mostSpin is the longest time to spin. No processor takes nearly so long to wake up,
// and it is what the Go runtime lets a goroutine have before others come first.
const mostSpin = 10 * time.Millisecond

func setSpin(c *Config, v string) (err error) {
	c.Spin, err = value.Duration(v, time.Microsecond)
	if err == nil && c.Spin > mostSpin {
		err = &value.Error{Why: fmt.Sprintf("is too long, the most is %v, and a CPU is busy meanwhile", mostSpin), Instead: "50us"}
	}
	return err
}

package config

import (
	"fmt"
	"math"
	"time"

	"unproxy/gateway/config/value"
	"unproxy/transparent/returnpath"
)

// mostLoops is the most event loops; each has a thread, an epoll instance and a
// socket for every UDP listener.
const mostLoops = 1024

func setLoops(c *Config, texts []string) error {
	n, err := value.Count(last(texts), mostLoops)
	if err == nil && n == 0 {
		err = &value.Error{Why: "leaves no loop to serve connections", Hint: "1"}
	}
	c.Loops = int(n)
	return err
}

func setUpgradeTimeout(c *Config, texts []string) (err error) {
	c.UpgradeTimeout, err = value.Duration(last(texts), 100*time.Millisecond, longest)
	if err == nil && c.UpgradeTimeout == 0 {
		err = &value.Error{Why: "leaves the new process no time", Hint: "30s"}
	}
	return err
}

// setRouteTable refuses the tables that the kernel uses itself: RT_TABLE_UNSPEC
// 0, and RT_TABLE_DEFAULT, RT_TABLE_MAIN and RT_TABLE_LOCAL, 253 to 255
// (linux/rtnetlink.h). FRA_TABLE has 32 bits.
func setRouteTable(c *Config, texts []string) error {
	n, err := value.Count(last(texts), math.MaxUint32)
	if err == nil && (n == 0 || n >= 253 && n <= 255) {
		err = &value.Error{Why: "is reserved by the kernel", Hint: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Table = uint32(n)
	return err
}

// setRulePreference keeps rules after the one for the table local, preference 0,
// and before the one for the table main, which has a route for every packet where
// there is a default route (fib_default_rules_init in net/ipv4/fib_rules.c).
func setRulePreference(c *Config, texts []string) error {
	const main = 0x7FFE
	n, err := value.Count(last(texts), math.MaxUint32)
	if err == nil && (n == 0 || n >= main-1) {
		err = &value.Error{
			Why:  fmt.Sprintf("is not between 1 and %d, before the table main", main-2),
			Hint: fmt.Sprint(returnpath.Default),
		}
	}
	c.Routes.Preference = uint32(n)
	return err
}

// setRouteMark leaves room for the two marks that follow, of 32 bits each.
func setRouteMark(c *Config, texts []string) error {
	n, err := value.Count(last(texts), math.MaxUint32-2)
	if err == nil && n == 0 {
		err = &value.Error{Why: "is the mark of unmarked packets", Hint: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Mark = uint32(n)
	return err
}

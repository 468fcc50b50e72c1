package config

import (
	"fmt"
	"math"

	"unproxy/gateway/config/value"
	"unproxy/transparent/returnpath"
)

// setRouteTable takes no table that the kernel has a use of its own for: 253 to
// 255 are default, main and local (RT_TABLE_DEFAULT).
func setRouteTable(c *Config, v string) error {
	n, err := value.Count(v, math.MaxUint32)
	if err == nil && (n == 0 || n >= 253 && n <= 255) {
		err = &value.Error{Why: "is a table of the system's own", Instead: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Table = uint32(n)
	return err
}

// setRulePreference keeps rules before the table main, which has an answer for
// every packet where there is a default route, and behind the table local.
func setRulePreference(c *Config, v string) error {
	const main = 32766
	n, err := value.Count(v, math.MaxUint32)
	if err == nil && (n == 0 || n >= main-1) {
		err = &value.Error{Why: fmt.Sprintf("is not between 1 and %d, before the table main", main-2), Instead: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Preference = uint32(n)
	return err
}

func setRouteMark(c *Config, v string) error {
	n, err := value.Count(v, math.MaxUint32-2)
	if err == nil && n == 0 {
		err = &value.Error{Why: "is the mark of every packet", Instead: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Mark = uint32(n)
	return err
}

func setRecipe(c *Config, v string) error {
	i, err := value.Word(v, returnpath.RecipeNames()...)
	c.Routes.Recipe = returnpath.Recipe(max(0, i))
	return err
}

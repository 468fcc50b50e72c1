package config

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/config/value"
	"unproxy/gateway/sandbox"
	"unproxy/transparent/returnpath"
)

// mostLoops is the maximum number of event loops. Each uses a thread, an epoll
// instance and a socket for every UDP listener.
const mostLoops = 1024

func setLoops(c *Config, texts []string) error {
	n, err := value.Count(last(texts), mostLoops)
	if err == nil && n == 0 {
		err = &value.Error{Why: "is too low: the minimum is 1", Hint: "1"}
	}
	c.Loops = int(n)
	return err
}

// leastBuffer is the lowest limit on buffers. Each event loop may exceed it by its last
// batch of reads, half of that.
const leastBuffer = 1 << 20

func setMaxBuffer(c *Config, texts []string) (err error) {
	text := last(texts)
	if text == "off" {
		c.MaxBuffer = 0
		return nil
	}
	c.MaxBuffer, err = value.Size(text)
	if err == nil && c.MaxBuffer != 0 && c.MaxBuffer < leastBuffer {
		err = &value.Error{Why: "is too small: the minimum is 1MiB", Hint: "1MiB"}
	}
	return err
}

func setUpgradeTimeout(c *Config, texts []string) (err error) {
	c.UpgradeTimeout, err = value.Duration(last(texts), 100*time.Millisecond, longest)
	if err == nil && c.UpgradeTimeout == 0 {
		err = &value.Error{Why: "is too short: the minimum is 100ms", Hint: "30s"}
	}
	return err
}

// setUser looks the user up.
func setUser(c *Config, texts []string) (err error) {
	if c.User, err = sandbox.FindUser(last(texts)); err != nil {
		return fmt.Errorf("is not a user, a name of /etc/passwd or UID:GID: %w", err)
	}
	return nil
}

// setEnvFiles records the files, which package command has read.
func setEnvFiles(c *Config, texts []string) error {
	for _, path := range texts {
		c.EnvFiles = append(c.EnvFiles, strings.TrimPrefix(path, "-"))
	}
	return nil
}

// setBanFile reads the bans. A relative path would depend on where the program is started.
func setBanFile(c *Config, texts []string) error {
	path, err := filepath.Abs(last(texts))
	if err != nil {
		return err
	}
	c.Bans, err = ban.Open(path, time.Now)
	if err != nil {
		return fmt.Errorf("cannot be used: %w", err)
	}
	return nil
}

// setRouteTable rejects the kernel's own tables: RT_TABLE_UNSPEC (0), and
// RT_TABLE_DEFAULT, RT_TABLE_MAIN and RT_TABLE_LOCAL (253 to 255), see
// linux/rtnetlink.h. FRA_TABLE has 32 bits.
func setRouteTable(c *Config, texts []string) error {
	n, err := value.Count(last(texts), math.MaxUint32)
	if err == nil && (n == 0 || n >= 253 && n <= 255) {
		err = &value.Error{Why: "is reserved by the kernel", Hint: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Table = uint32(n)
	return err
}

// setRulePreference requires a preference between those of the rules for the
// tables local (0) and main (0x7FFE), see fib_default_rules_init in
// net/ipv4/fib_rules.c. With a default route, table main matches every packet.
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

// setRouteMark leaves room for the two marks that follow N. Marks have 32 bits.
func setRouteMark(c *Config, texts []string) error {
	n, err := value.Count(last(texts), math.MaxUint32-2)
	if err == nil && n == 0 {
		err = &value.Error{Why: "is not a mark: unmarked packets have 0", Hint: fmt.Sprint(returnpath.Default)}
	}
	c.Routes.Mark = uint32(n)
	return err
}

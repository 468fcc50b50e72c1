package returnpath

import (
	"fmt"
	"strings"
)

// maxDevice is the longest name of an interface (IFNAMSIZ in linux/if.h).
const maxDevice = 15

// plain are the characters that mean nothing to sh(1), nft(8), ip(8), sysctl(8) and
// the files of networkd and ifupdown.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-@+"

// CheckDevice returns an error unless name can stand in the commands and files of
// a plan as it is. The kernel accepts any name without spaces, colons and slashes,
// and a plan quotes none.
func CheckDevice(name string) error {
	switch {
	case name == "" || len(name) > maxDevice:
		return fmt.Errorf("the name of an interface has 1 to %d characters", maxDevice)
	case strings.Trim(name, plain) != "" || strings.ContainsAny(name[:1], ".-@+"):
		return fmt.Errorf("the interface %q has a name with other characters than letters, digits and _ . - @ +, "+
			"or does not begin with a letter, digit or _", name)
	}
	return nil
}

// Sysctl returns the name of a parameter of an IPv4 interface for sysctl(8), which
// separates by slashes if the first separator is one: a name can contain dots.
func Sysctl(device, parameter string) string {
	if strings.Contains(device, ".") {
		return "net/ipv4/conf/" + device + "/" + parameter
	}
	return "net.ipv4.conf." + device + "." + parameter
}

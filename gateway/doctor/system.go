package doctor

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"unproxy/gateway"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// This returns the machine that this process runs on.
func This() Host {
	executable, err := os.Executable()
	if err != nil {
		executable = os.Args[0]
	}
	return Host{
		Files:            os.DirFS("/"),
		Executable:       executable,
		FileCapabilities: fileCapabilities("/proc/self/exe"),
		Options:          options,
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
		Connect: connect,
		Stand:   stand,
		Bind:    bind,
		BindUDP: bindUDP,
		Plan: func(ctx context.Context, c *gateway.Config, names lookup) (returnpath.Plan, error) {
			return c.PlanRoutes(ctx, gateway.Surroundings{Lookup: names})
		},
		Missing:  routing.Missing,
		Way:      routing.Lookup,
		Firewall: routing.Ruleset,
	}
}

func options(foreign, mark bool) error {
	if !foreign {
		return transparent.CheckMark()
	}
	return transparent.Check(mark)
}

// fileCapabilities returns the set that a program's file permits; 0 also where
// that cannot be read (struct vfs_cap_data in linux/capability.h, whose numbers
// are little-endian).
func fileCapabilities(path string) uint64 {
	var data [24]byte
	n, err := unix.Getxattr(path, "security.capability", data[:])
	if err != nil || n < 12 {
		return 0
	}
	permitted := uint64(binary.LittleEndian.Uint32(data[4:]))
	if n >= 20 { // version 1 had 32 capabilities
		permitted |= uint64(binary.LittleEndian.Uint32(data[12:])) << 32
	}
	return permitted
}

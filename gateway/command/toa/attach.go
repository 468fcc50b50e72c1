package toa

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
	"unproxy/transparent/toa/attach"
)

// runAttach attaches the programs of the selected role.
func runAttach(ctx *cli.Context) error {
	if ctx.Bool("gateway") {
		return attachGateway(ctx)
	}
	from, fromErr := gateways(ctx.StringSlice("from"))
	ports, portErr := ports(ctx.StringSlice("port"))
	if err := errors.Join(fromErr, portErr); err != nil {
		return err
	}
	cgroup, err := cgroupOf(ctx)
	if err != nil {
		return err
	}
	c := attach.ServerConfig{Cgroup: cgroup, From: from, Ports: ports, Legacy: ctx.Bool("legacy")}
	warnServer(ctx, c)
	r, err := attach.AttachServer(c)
	if err != nil {
		return err
	}
	printf(ctx.App.Writer, "%s %s: from %s to port %s\n", done(r), r.Cgroup, prefixWords(from), portWords(ports))
	warnListeners(ctx, r.Listeners)
	return nil
}

func attachGateway(ctx *cli.Context) error {
	for _, name := range []string{"from", "port", "legacy"} {
		if ctx.IsSet(name) {
			return usage.Errorf("--%s is for the backend's host, --gateway for the gateway's", name)
		}
	}
	cgroup, err := cgroupOf(ctx)
	if err != nil {
		return err
	}
	r, err := attach.AttachGateway(cgroup)
	if err != nil {
		return err
	}
	printf(ctx.App.Writer, "%s %s\n", done(r), r.Cgroup)
	return nil
}

func done(r attach.Result) string {
	if r.Upgraded {
		return "updated"
	}
	return "attached to"
}

// gateways parses the values of --from.
func gateways(words []string) (all []netip.Prefix, err error) {
	if len(words) == 0 {
		return nil, usage.Errorf("no gateway").WithHint("give the address from which the gateway connects: --from 10.0.0.5")
	}
	for _, w := range words {
		p, one := prefix(w)
		all, err = append(all, p), errors.Join(err, one)
	}
	return all, err
}

// prefix parses an address or a prefix.
func prefix(word string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return p, usage.Errorf("--from %q is neither an address nor a prefix", value.Shorten(word)).
			WithHint("for example --from 10.0.0.5 or --from fd00::/64")
	}
	if p.Addr().Is4In6() {
		return p, usage.Errorf("--from %s is an IPv4-mapped prefix", word).WithHint("write it as IPv4")
	}
	if p.Masked() != p {
		return p, usage.Errorf("--from %s has bits after the prefix", word).WithHint("did you mean " + p.Masked().String() + "?")
	}
	return p, nil
}

// ports parses the values of --port.
func ports(words []string) (all []uint16, err error) {
	if len(words) == 0 {
		return nil, usage.Errorf("no port").WithHint("give the port of the server: --port 22")
	}
	for _, w := range words {
		n, one := strconv.ParseUint(w, 10, 16)
		if one != nil || n == 0 {
			err = errors.Join(err, usage.Errorf("--port %q is no port", value.Shorten(w)).
				WithHint("1 to 65535; repeat --port for several"))
		}
		all = append(all, uint16(n))
	}
	return all, err
}

// warnServer warns of settings that refuse or believe more than one may expect.
func warnServer(ctx *cli.Context, c attach.ServerConfig) {
	if c.Legacy {
		warn(ctx, "--legacy: options of TOA kernel modules are taken from the gateways; their senders cannot know "+
			"whether a server sees the client")
	}
	for _, p := range c.From {
		switch {
		case p.Bits() == 0:
			warn(ctx, "--from %v: every connection to the ports must carry a client, and every host can name one", p)
		case p.Contains(netip.MustParseAddr("127.0.0.1")), p.Contains(netip.IPv6Loopback()):
			warn(ctx, "--from %v includes this host's loopback: local connections to the ports are refused unless they "+
				"carry a client", p)
		}
	}
}

// warnListeners warns of listeners that the programs do not cover yet.
func warnListeners(ctx *cli.Context, l attach.Listeners) {
	switch {
	case len(l.Uncovered) > 0:
		warn(ctx, "listeners from before are not covered: restart the servers on port %s (%v)", portWords(l.Uncovered), l.Err)
	case l.Err != nil:
		warn(ctx, "listeners from before may not be covered: restart the servers on these ports (%v)", l.Err)
	}
}

// runDetach takes the programs of the selected role away.
func runDetach(ctx *cli.Context) error {
	cgroup, err := cgroupOf(ctx)
	if err != nil {
		return err
	}
	found, err := attach.Detach(cgroup, roleOf(ctx))
	if err != nil {
		return err
	}
	if found {
		printf(ctx.App.Writer, "detached from %s\n", cgroup)
		return nil
	}
	printf(ctx.App.Writer, "nothing is attached to %s\n", cgroup)
	return warnElsewhere(ctx, cgroup)
}

// warnElsewhere says where else programs of the role are attached.
func warnElsewhere(ctx *cli.Context, cgroup string) error {
	root, err := attach.Root()
	if err != nil {
		return err
	}
	all, err := attach.List(root)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Role == roleOf(ctx) && a.Cgroup != cgroup {
			warn(ctx, "still attached to %s: give --cgroup %s", a.Cgroup, usage.ShellQuote(a.Cgroup))
		}
	}
	return nil
}

func prefixWords(all []netip.Prefix) string {
	var words []string
	for _, p := range all {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

func portWords(all []uint16) string {
	var words []string
	for _, p := range all {
		words = append(words, strconv.Itoa(int(p)))
	}
	return strings.Join(words, ", ")
}

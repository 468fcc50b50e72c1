package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/trust"
)

// loopbacks are the loopback networks of both families (RFC 1122, section
// 3.2.1.3; RFC 4291, section 2.5.3).
var loopbacks = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
	netip.PrefixFrom(netip.IPv6Loopback(), 128),
}

// localhosts are names of the loopback addresses: localhost, whose subdomains count
// as well (RFC 6761, section 6.3), and the names in Debian's /etc/hosts.
var localhosts = []string{"localhost", "ip6-localhost", "ip6-loopback"}

// loopback reports whether a backend is a loopback address or a name of one.
func loopback(b forward.Backend) bool {
	name := strings.TrimSuffix(strings.ToLower(b.Host), ".")
	return b.Endpoint.Addr.Addr().Unmap().IsLoopback() || slices.Contains(localhosts, name) ||
		strings.HasSuffix(name, ".localhost")
}

// mostNamed is the number of forwards that a warning names.
const mostNamed = 5

// LocalhostWarnings warns of clients that appear as localhost to servers on this
// host, because many servers grant privileges to localhost. [Config.Validate] does
// not include these warnings: whether a server grants any is unknown. Servers on
// unix sockets see no address. There is one warning for all forwards, because it is
// repeated at each start.
func (c *Config) LocalhostWarnings() []Warning {
	var plain, mismatched []string
	for _, f := range c.Forwards {
		switch {
		case len(f.Listeners) == 0 || !leadsToLoopback(f):
		case !f.Transparent:
			plain = append(plain, f.Listeners[0].Name)
		case f.Source.FamilyMismatch == transparent.Plain:
			mismatched = append(mismatched, f.Listeners[0].Name)
		}
	}
	const grants = "as localhost, and grant it what they grant to localhost"
	const server = "let the server grant nothing to localhost: see SECURITY.md, Plain mode"
	var all []Warning
	if len(plain) > 0 {
		all = append(all, Warning{About: AboutLocalhost, Hint: "--transparent; or " + server,
			Message: naming(plain) + ": in plain mode, servers on this host see every client " + grants})
	}
	if len(mismatched) > 0 {
		all = append(all, Warning{About: AboutLocalhost, Hint: "--family-mismatch map; or " + server,
			Message: naming(mismatched) + ": with --family-mismatch plain, servers on this host see clients" +
				" of the other family " + grants})
	}
	return all
}

// naming lists the names of forwards, at most mostNamed of them.
func naming(names []string) string {
	text := "forward " + names[0]
	if len(names) > 1 {
		text = "forwards " + strings.Join(names[:min(len(names), mostNamed)], ", ")
	}
	if n := len(names) - mostNamed; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// leadsToLoopback reports whether a backend of f is on loopback, or whether a header
// may name one that is.
func leadsToLoopback(f *forward.Forward) bool {
	named := f.HasHeaderBackend() && slices.ContainsFunc(Rules(f.AllowDestination), overlapsLoopback)
	return named || f.AnyBackend(loopback)
}

func overlapsLoopback(r trust.Rule) bool {
	return slices.ContainsFunc(loopbacks[:], r.Prefix.Overlaps)
}

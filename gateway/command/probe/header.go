package probe

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/datagram"
	"unproxy/gateway/proxyproto"
)

// headerKind is the header that a probe sends.
type headerKind uint8

const (
	headerV2 headerKind = iota
	headerV2Local
	headerV2Unspec
	headerV1
	headerV1Unknown
	headerSimple
	headerNone
)

func kindOf(c *cli.Context) headerKind {
	switch {
	case c.Bool("no-header"):
		return headerNone
	case c.Bool("v1") && c.Bool("unknown"):
		return headerV1Unknown
	case c.Bool("v1"):
		return headerV1
	case c.Bool("local"):
		return headerV2Local
	case c.Bool("unknown"):
		return headerV2Unspec
	case c.Bool("spp"):
		return headerSimple
	}
	return headerV2
}

// readEnd parses an address for the header. port is the default port. The result is not
// valid if text is empty.
func readEnd(flag, text string, port uint16) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a, port), nil
	}
	end, err := netip.ParseAddrPort(text)
	if err != nil || end.Addr().Zone() != "" {
		return netip.AddrPort{}, usage.Errorf("--%s %q is not IP or IP:PORT", flag, text).
			WithHint("write it as 203.0.113.9:4711 or [2001:db8::9]:4711")
	}
	return end, nil
}

// Addresses reserved for documentation (RFC 5737 and RFC 3849), for headers
// without given addresses.
var (
	exampleClient4      = netip.MustParseAddrPort("203.0.113.9:4711")
	exampleClient6      = netip.MustParseAddrPort("[2001:db8::9]:4711")
	exampleDestination4 = netip.MustParseAddrPort("198.51.100.1:443")
	exampleDestination6 = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// ends returns the addresses of the header on a connection to remote, which is
// not valid for a unix socket. An address that was not given gets the family of
// the others.
func (p *plan) ends(remote netip.AddrPort) (client, destination netip.AddrPort) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	client, destination = p.client, p.destination
	if !client.IsValid() {
		client = exampleClient4
		if destination.Addr().Is6() || !destination.IsValid() && remote.Addr().Is6() {
			client = exampleClient6
		}
	}
	if destination.IsValid() {
		return client, destination
	}
	switch {
	case remote.IsValid() && remote.Addr().Is4() == client.Addr().Is4():
		destination = netip.AddrPortFrom(remote.Addr().WithZone(""), remote.Port())
	case client.Addr().Is4():
		destination = exampleDestination4
	default:
		destination = exampleDestination6
	}
	return client, destination
}

// header returns the header for a connection to remote, and its name.
func (p *plan) header(remote netip.AddrPort) (b []byte, name string, err error) {
	client, destination := p.ends(remote)
	between := fmt.Sprintf("from %v to %v", client, destination)
	message := proxyproto.Message{
		Command: proxyproto.CommandProxy, TLVs: p.tlvs, Checksum: p.checksum, Datagram: p.isDatagram(),
	}
	switch p.kind {
	case headerNone:
		return nil, "none", nil
	case headerV1:
		return proxyproto.AppendV1(nil, client, destination), "v1, " + between, nil
	case headerSimple:
		return datagram.AppendSPP(nil, client, destination), "Simple Proxy Protocol, " + between, nil
	case headerV1Unknown:
		return proxyproto.AppendV1(nil, netip.AddrPort{}, netip.AddrPort{}), "v1 UNKNOWN", nil
	case headerV2Local:
		message.Command, name = proxyproto.CommandLocal, "v2 LOCAL"
	case headerV2Unspec:
		name = "v2 UNSPEC"
	default:
		message.Source, message.Destination = client, destination
		name = "v2, " + between
	}
	b, err = proxyproto.AppendV2(nil, &message)
	return b, name, err
}

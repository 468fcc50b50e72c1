package command

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// printBackendHost prints the routes for the host of the backends. It omits backends
// on this host.
func printBackendHost(ctx *cli.Context, p returnpath.Plan) error {
	var h returnpath.BackendHost
	for _, b := range p.Backends {
		if b.Reach.Place == returnpath.Link || b.Reach.Place == returnpath.Routed {
			h.Backends = append(h.Backends, b)
		}
	}
	if len(h.Backends) == 0 {
		return usage.Errorf("all backends are on this host").WithHint("leave out --backend-host: unproxy routes print")
	}
	given := ctx.StringSlice("gateway")
	for _, word := range given {
		g, err := parseGateway(word)
		if err != nil {
			return err
		}
		h.Gateways = append(h.Gateways, g)
	}
	if len(given) == 0 {
		own, err := thisGateway(h.Backends)
		if err != nil {
			return err
		}
		h.Gateways = append(h.Gateways, own)
	}
	fmt.Fprint(ctx.App.Writer, h)
	return nil
}

// thisGateway returns the addresses of this host as seen by the backends' host.
func thisGateway(backends []returnpath.Backend) (returnpath.Gateway, error) {
	var g returnpath.Gateway
	families := map[bool]bool{}
	for _, b := range backends {
		if families[b.Addr.Addr().Is6()] {
			continue
		}
		families[b.Addr.Addr().Is6()] = true
		source, mac, err := routing.Source(b.Addr.Addr())
		if err != nil {
			return g, err
		}
		if mac == "" {
			return g, usage.Errorf("%s is reached through %s, which has no hardware address", b, b.Reach.Device).
				WithHint("name the interface of the tunnel on the backends' host: --gateway dev:INTERFACE")
		}
		g.MAC, g.Addrs = mac, append(g.Addrs, source)
	}
	return g, nil
}

// parseGateway parses ADDR[+ADDR][=MAC] or dev:INTERFACE.
func parseGateway(word string) (returnpath.Gateway, error) {
	if device, ok := strings.CutPrefix(word, "dev:"); ok {
		if err := returnpath.CheckDevice(device); err != nil {
			return returnpath.Gateway{}, gatewayProblem(word, "is not usable: "+err.Error())
		}
		return returnpath.Gateway{Device: device}, nil
	}
	addresses, mac, hasMAC := strings.Cut(word, "=")
	var g returnpath.Gateway
	for text := range strings.SplitSeq(addresses, "+") {
		a, err := netip.ParseAddr(strings.Trim(text, "[]"))
		if err != nil || a.Zone() != "" {
			return g, gatewayProblem(word, fmt.Sprintf("holds %q, which is not an IP address", value.Shorten(text)))
		}
		g.Addrs = append(g.Addrs, a.Unmap())
	}
	if !hasMAC {
		return withMAC(g, word)
	}
	hardware, err := net.ParseMAC(mac)
	if err != nil || len(hardware) != 6 {
		return g, gatewayProblem(word, fmt.Sprintf("holds %q, which is not a hardware address", value.Shorten(mac)))
	}
	g.MAC = hardware.String()
	return g, nil
}

// withMAC adds the hardware address of a gateway, which is this host or a neighbour.
func withMAC(g returnpath.Gateway, word string) (returnpath.Gateway, error) {
	for _, a := range g.Addrs {
		mac, err := routing.HardwareAddress(a)
		if err != nil {
			return g, err
		}
		if mac != "" {
			g.MAC = mac
			return g, nil
		}
	}
	return g, usage.Errorf("this host does not know the hardware address of %s", word).
		WithHint("ping it first, or give it: --gateway " + word + "=52:54:00:12:34:56")
}

// gatewayProblem returns the error for a value of --gateway.
func gatewayProblem(word, what string) error {
	return usage.Errorf("--gateway %q %s", value.Shorten(word), what).
		WithHint("write --gateway 10.9.0.5, 10.9.0.5+fd09::5=52:54:00:12:34:56 or dev:wg0")
}

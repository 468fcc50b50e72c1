package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

// PortAdvice says which ports of listeners, and of backends on this host, the kernel may
// assign to outgoing connections.
type PortAdvice struct {
	// Detail names the ports; "" if there are none.
	Detail string
	// Command reserves them: the kernel then leaves them out.
	Command string
}

// maxNamedPorts is the number of listeners and backends that an advice names.
const maxNamedPorts = 5

// PortAdvice returns the advice for some forwards. names returns the addresses of a
// backend's name; a name without addresses is left out.
func (h Host) PortAdvice(forwards []*forward.Forward, names func(host string) []netip.Addr) PortAdvice {
	ports, err := kernel.ReadEphemeralPorts(h.Files)
	if err != nil {
		return PortAdvice{}
	}
	own, err := h.Addresses()
	if err != nil {
		own = nil // loopback is known without
	}
	var named []string
	var needed []kernel.PortRange
	add := func(what string, port uint16) {
		if !ports.Contains(port) {
			return
		}
		named = append(named, what)
		needed = append(needed, kernel.PortRange{First: port, Last: port})
	}
	isOwn := func(a netip.Addr) bool {
		return a.IsLoopback() || a.IsUnspecified() ||
			slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
	}
	for _, f := range forwards {
		for i := range f.Listeners {
			l := &f.Listeners[i]
			add("the listener "+l.Name, l.Endpoint.Addr.Port())
			for _, b := range l.Backends {
				if at := b.Endpoint.Addr; at.IsValid() && isOwn(at.Addr()) {
					add("the backend "+b.String(), at.Port())
				}
				if b.Host != "" && slices.ContainsFunc(names(b.Host), isOwn) {
					add("the backend "+b.String(), b.Port)
				}
			}
		}
	}
	if len(needed) == 0 {
		return PortAdvice{}
	}
	slices.Sort(named)
	named = slices.Compact(named)
	if n := len(named); n > maxNamedPorts {
		named = append(named[:maxNamedPorts], fmt.Sprintf("%d more", n-maxNamedPorts))
	}
	return PortAdvice{
		Detail: fmt.Sprintf("the kernel may assign the ports of %s to outgoing connections, as they are within "+
			"net.ipv4.ip_local_port_range (%d to %d); while one has the port, nothing can listen there",
			strings.Join(named, ", "), ports.Range.First, ports.Range.Last),
		Command: reserveCommand(&ports, needed),
	}
}

// checkPorts reports ports that the kernel may assign to outgoing connections.
func (r *run) checkPorts(context.Context) []Finding {
	a := r.host.PortAdvice(r.Config.Forwards, func(host string) []netip.Addr { return r.names[host].addresses })
	if a.Detail == "" {
		return nil
	}
	return []Finding{finding(EphemeralPort, "ports", Warn, "%s", a.Detail).with(a.Command)}
}

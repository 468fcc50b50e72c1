package config

import (
	"unproxy/gateway/forward"
	"unproxy/transparent/returnpath"
)

// Targets returns what the return path of c must cover: the backends of the
// forwards that connect from clients' addresses, with names unresolved, and the
// redirects of its tproxy listeners. Package routing resolves the names and plans
// the routes.
func (c *Config) Targets() returnpath.Targets {
	t := returnpath.Targets{Options: c.Routes}
	for _, f := range c.Forwards {
		if f.ConnectsAsClient() {
			t.Backends = append(t.Backends, targets(f)...)
		}
		for _, r := range f.Redirect {
			t.Redirects = append(t.Redirects, returnpath.Redirect{
				Prefix: r.Prefix,
				Ports:  returnpath.Ports{Low: r.Low, High: r.High},
				To:     f.Listeners[0].Endpoint.Addr, // the only one, see validator.tproxy
			})
		}
	}
	return t
}

// targets returns the backends of a forward.
func targets(f *forward.Forward) []returnpath.Target {
	var all []returnpath.Target
	for _, l := range f.Listeners {
		for _, b := range l.Backends {
			switch {
			case b.Host != "":
				all = append(all, returnpath.Target{Host: b.Host, Backend: returnpath.Backend{
					Ports: returnpath.Ports{Low: b.Port, High: b.Port}, UDP: f.Datagrams}})
			case b.Endpoint.Addr.IsValid():
				all = append(all, returnpath.Target{Backend: returnpath.Server(b.Endpoint.Addr, f.Datagrams)})
			}
		}
	}
	if !f.HasHeaderBackend() {
		return all
	}
	for _, r := range Rules(f.AllowDestination) {
		all = append(all, returnpath.Target{Backend: returnpath.Backend{
			Addr: r.Prefix.Masked(), Ports: returnpath.AllPorts, UDP: f.Datagrams}})
	}
	return all
}

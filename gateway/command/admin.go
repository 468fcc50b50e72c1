package command

import (
	"errors"
	"fmt"

	"unproxy/gateway/admin"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/daemon"
)

// adminSettings reads the settings of the admin endpoint and of the health endpoint.
func adminSettings(g *given) (daemon.Admin, []config.Warning, error) {
	insecure, err1 := g.isOn("admin-insecure")
	profiles, err2 := g.isOn("pprof")
	health, err3 := g.endpoint("health", admin.ParseHealth)
	at, err4 := g.endpoint("admin", func(text string) (admin.Address, error) { return admin.ParseAddress(text, insecure) })
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return daemon.Admin{}, nil, err
	}
	if at.IsZero() {
		return daemon.Admin{Health: health}, withoutAdmin(insecure, profiles), nil
	}
	a := daemon.Admin{Address: at, Profiles: profiles, Health: health}
	if at.Exposure() == "" {
		return a, nil, nil
	}
	return a, []config.Warning{{
		Message: fmt.Sprintf("--admin %s can be reached %s: anyone who reaches it sees the clients' "+
			"addresses and may cut connections", at, at.Exposure()),
		Hint: "restrict access with a firewall, or listen on 127.0.0.1 or a unix socket with a path; " +
			"for health checks and metrics there is --health",
	}}, nil
}

// endpoint reads the address of an endpoint, the zero value if there is none.
func (g *given) endpoint(name string, parse func(string) (admin.Address, error)) (admin.Address, error) {
	values := g.values[name]
	if len(values) == 0 || values[len(values)-1] == "off" {
		return admin.Address{}, nil
	}
	return parse(values[len(values)-1])
}

// withoutAdmin warns of settings that do nothing where there is no endpoint.
func withoutAdmin(insecure, profiles bool) (all []config.Warning) {
	if insecure {
		all = append(all, config.Warning{Message: "--admin-insecure has no effect without --admin"})
	}
	if profiles {
		all = append(all, config.Warning{Message: "--pprof has no effect without --admin", Hint: "--admin 127.0.0.1:9180"})
	}
	return all
}

// isOn returns the value of a switch. The default is off.
func (g *given) isOn(name string) (bool, error) {
	values := g.values[name]
	if len(values) == 0 {
		return false, nil
	}
	last := values[len(values)-1]
	on, err := value.Switch(last)
	if err != nil {
		return false, config.FlagProblem(name, last, err)
	}
	return on, nil
}

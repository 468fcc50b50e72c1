package command

import (
	"errors"
	"fmt"

	"unproxy/gateway/admin"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/daemon"
)

// adminSettings parses the settings of the admin endpoint.
func adminSettings(g *given) (daemon.Admin, []config.Warning, error) {
	insecure, err1 := g.isOn("admin-insecure")
	profiles, err2 := g.isOn("pprof")
	if err := errors.Join(err1, err2); err != nil {
		return daemon.Admin{}, nil, err
	}
	values := g.values["admin"]
	if len(values) == 0 || values[len(values)-1] == "off" {
		return daemon.Admin{}, withoutAdmin(insecure, profiles), nil
	}
	a, err := admin.ParseAddress(values[len(values)-1], insecure)
	if err != nil || a.Exposure() == "" {
		return daemon.Admin{Address: a, Profiles: profiles}, nil, err
	}
	return daemon.Admin{Address: a, Profiles: profiles}, []config.Warning{{
		Message: fmt.Sprintf("--admin %s can be reached %s: anyone who reaches it sees the clients' "+
			"addresses and may cut connections", a, a.Exposure()),
		Hint: "restrict access with a firewall, or listen on 127.0.0.1 or a unix socket with a path",
	}}, nil
}

// withoutAdmin warns of settings that have no effect without the endpoint.
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

package command

import (
	"errors"
	"fmt"

	"unproxy/gateway"
	"unproxy/gateway/admin"
	"unproxy/gateway/daemon"
	"unproxy/gateway/settings"
)

// adminOptions are the flags of the admin endpoint.
func adminOptions() []option {
	return []option{
		{name: "admin", group: "Admin", argument: "ADDR", value: "off",
			meaning: "health, metrics, a status page and more over HTTP, on 127.0.0.1:9180 or unix:PATH"},
		{name: "admin-insecure", group: "Admin", value: "off", isSwitch: true,
			meaning: "let --admin be an address that other hosts can reach"},
		{name: "pprof", group: "Admin", value: "off", isSwitch: true,
			meaning: "profiles of the program at /debug/pprof/ of --admin"},
	}
}

// adminSettings reads the settings of the admin endpoint.
func adminSettings(g *given) (daemon.Admin, []gateway.Warning, error) {
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
	if err != nil || a.IsLocal() {
		return daemon.Admin{Address: a, Profiles: profiles}, nil, err
	}
	return daemon.Admin{Address: a, Profiles: profiles}, []gateway.Warning{{
		Message: fmt.Sprintf("--admin %s can be reached from other hosts: anyone who reaches it sees the clients' "+
			"addresses and may cut connections", a),
		Remedy: "restrict access with a firewall, or listen on 127.0.0.1",
	}}, nil
}

// withoutAdmin warns of settings that do nothing where there is no endpoint.
func withoutAdmin(insecure, profiles bool) (all []gateway.Warning) {
	if insecure {
		all = append(all, gateway.Warning{Message: "--admin-insecure does nothing without --admin"})
	}
	if profiles {
		all = append(all, gateway.Warning{Message: "--pprof does nothing without --admin", Remedy: "--admin 127.0.0.1:9180"})
	}
	return all
}

// isOn reads a switch that was given or not.
func (g *given) isOn(name string) (bool, error) {
	values := g.values[name]
	if len(values) == 0 {
		return false, nil
	}
	last := values[len(values)-1]
	on, err := settings.Switch(last)
	if err != nil {
		return false, gateway.FlagProblem(name, last, err)
	}
	return on, nil
}

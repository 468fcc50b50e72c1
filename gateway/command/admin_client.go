package command

import (
	"os"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/admin"
)

// defaultAdmin is the default endpoint of status and healthcheck.
const defaultAdmin = "127.0.0.1:9180"

// adminFlag returns the flag --admin of the commands that query an endpoint. It has
// the same name and variable as the flag of the gateway.
func adminFlag(g *given) cli.Flag {
	return &cli.GenericFlag{
		Name: "admin", Usage: "ask the endpoint at `ADDR` [" + defaultAdmin + "]",
		Value: &recorder{into: g, name: "admin"},
	}
}

// healthFlag returns the flag --health of the commands that ask for readiness alone.
func healthFlag(g *given) cli.Flag {
	return &cli.GenericFlag{
		Name: "health", Usage: "ask the health endpoint at `ADDR`, unless there is --admin",
		Value: &recorder{into: g, name: "health"},
	}
}

// adminClient returns a client of the admin endpoint that was given.
func adminClient(g *given) (*admin.Client, error) {
	if _, err := g.environment(os.Environ()); err != nil {
		return nil, err
	}
	text := defaultAdmin
	if values := g.values["admin"]; len(values) > 0 {
		text = values[len(values)-1]
	}
	a, err := admin.ParseAddress(text, true)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(admin.Control, a), nil
}

// probeClient returns a client of either endpoint that was given, the admin endpoint
// first.
func probeClient(g *given) (*admin.Client, error) {
	if _, err := g.environment(os.Environ()); err != nil {
		return nil, err
	}
	parseAny := func(text string) (admin.Address, error) { return admin.ParseAddress(text, true) }
	at, err := g.endpoint("admin", parseAny)
	if err != nil || !at.IsZero() {
		return admin.NewClient(admin.Control, at), err
	}
	at, err = g.endpoint("health", admin.ParseHealth)
	if err != nil || !at.IsZero() {
		return admin.NewClient(admin.Probes, at), err
	}
	at, err = parseAny(defaultAdmin)
	return admin.NewClient(admin.Control, at), err
}

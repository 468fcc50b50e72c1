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

// adminClient returns a client of the given endpoint.
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
	return admin.NewClient(a), nil
}

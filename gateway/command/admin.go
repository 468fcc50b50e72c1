package command

import (
	"fmt"

	"unproxy/gateway"
	"unproxy/gateway/admin"
	"unproxy/gateway/record"
	"unproxy/gateway/settings"
)

// adminOptions are the flags of the admin endpoint.
func adminOptions() []option {
	return []option{
		{name: "admin", group: "Admin", argument: "ADDR", value: "off",
			meaning: "health, readiness and more over HTTP, on 127.0.0.1:9180 or unix:PATH"},
		{name: "admin-insecure", group: "Admin", value: "off", isSwitch: true,
			meaning: "let --admin be an address that other hosts can reach"},
	}
}

// adminAddress reads where the admin endpoint is to listen; the zero address
// is nowhere.
func adminAddress(g *given) (admin.Address, []gateway.Warning, error) {
	var insecure bool
	if values := g.values["admin-insecure"]; len(values) > 0 {
		on, err := settings.Switch(values[len(values)-1])
		if err != nil {
			return admin.Address{}, nil, gateway.FlagProblem("admin-insecure", values[len(values)-1], err)
		}
		insecure = on
	}
	values := g.values["admin"]
	if len(values) == 0 || values[len(values)-1] == "off" {
		if insecure {
			return admin.Address{}, []gateway.Warning{{Message: "--admin-insecure does nothing without --admin"}}, nil
		}
		return admin.Address{}, nil, nil
	}
	a, err := admin.ParseAddress(values[len(values)-1], insecure)
	if err != nil || a.IsLocal() {
		return a, nil, err
	}
	return a, []gateway.Warning{{
		Message: fmt.Sprintf("--admin %s can be reached from other hosts: whoever reaches it sees the clients' addresses and may cut connections", a),
		Remedy:  "keep strangers out with a firewall, or listen on 127.0.0.1",
	}}, nil
}

// startAdmin opens the admin endpoint, if there is to be one. Of the functions
// that it returns the first tells the endpoint of the gateway once there is
// one, and the second closes it.
func (s *server) startAdmin() (attach func(admin.Gateway), stop func(), err error) {
	if s.admin.IsZero() {
		return func(admin.Gateway) {}, func() {}, nil
	}
	l, err := admin.Listen(s.admin)
	if err != nil {
		return nil, nil, err
	}
	refusals := admin.NewRefusals(nil)
	s.config.Observe = alsoNote(refusals, s.config.Observe)
	v := thisVersion()
	endpoint := admin.Serve(l, admin.Config{
		Version:    admin.Version{Version: v.Version, Revision: v.Revision, Go: v.Go},
		Gateway:    s.config,
		Readiness:  &s.readiness,
		Instance:   s.access.Instance(),
		Refusals:   refusals,
		LogDropped: s.access.Dropped,
	})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := <-endpoint.Failed(); err != nil {
			s.log.Error().Str("error", oneLine(err.Error())).Msg("the admin endpoint failed; connections go on")
		}
	}()
	s.log.Info().Str("address", admin.AddressOf(l).String()).Msg("admin endpoint")
	return endpoint.Attach, func() {
		endpoint.Close()
		<-watched
	}, nil
}

// alsoNote returns an observer that hands connections on to another one, and
// notes the refused ones.
func alsoNote(refusals *admin.Refusals, next func(*record.Connection)) func(*record.Connection) {
	return func(c *record.Connection) {
		next(c)
		refusals.Note(c)
	}
}

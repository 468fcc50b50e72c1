package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"unproxy/gateway"
	"unproxy/gateway/admin"
	"unproxy/gateway/doctor"
	"unproxy/gateway/record"
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

// adminConfig is what was given of the admin endpoint.
type adminConfig struct {
	address  admin.Address // zero is nowhere
	profiles bool
}

// adminSettings reads the settings of the admin endpoint.
func adminSettings(g *given) (adminConfig, []gateway.Warning, error) {
	insecure, err1 := g.isOn("admin-insecure")
	profiles, err2 := g.isOn("pprof")
	if err := errors.Join(err1, err2); err != nil {
		return adminConfig{}, nil, err
	}
	values := g.values["admin"]
	if len(values) == 0 || values[len(values)-1] == "off" {
		return adminConfig{}, withoutAdmin(insecure, profiles), nil
	}
	a, err := admin.ParseAddress(values[len(values)-1], insecure)
	if err != nil || a.IsLocal() {
		return adminConfig{a, profiles}, nil, err
	}
	return adminConfig{a, profiles}, []gateway.Warning{{
		Message: fmt.Sprintf("--admin %s can be reached from other hosts: whoever reaches it sees the clients' addresses and may cut connections", a),
		Remedy:  "keep strangers out with a firewall, or listen on 127.0.0.1",
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

// asked is a signal that came by the admin endpoint instead of kill(2); its text
// is the request.
type asked string

// String returns the request.
func (a asked) String() string { return string(a) }

// Signal makes asked an [os.Signal].
func (asked) Signal() {}

// startAdmin opens the admin endpoint, if there is to be one; what it is asked to
// do goes to signals. Of the functions that it returns the first tells the
// endpoint of the gateway once there is one, and the second closes it.
func (s *server) startAdmin(signals chan<- os.Signal) (attach func(admin.Gateway), stop func(), err error) {
	if s.admin.address.IsZero() {
		return func(admin.Gateway) {}, func() {}, nil
	}
	l, err := s.listenAdmin()
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
		ErrorLog:   log.New(s.access.Standard(), "", 0),
		Profiles:   s.admin.profiles,
		Findings:   findingsJSON(s.examiner),
		Examine:    s.examiner.Examine,
		Drain: func() {
			select {
			case signals <- asked("POST /-/drain"):
			default: // so many are waiting that one of them will do
			}
		},
		Reload: func(ctx context.Context) error {
			select {
			case <-s.made:
				return s.reloadNow("POST /-/reload")
			case <-ctx.Done():
				return ctx.Err()
			}
		},
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

// findingsJSON returns a function that tells what an examiner knows.
func findingsJSON(e *doctor.Examiner) func() (json.RawMessage, time.Time) {
	return func() (json.RawMessage, time.Time) {
		findings, examined := e.Findings()
		if findings == nil {
			return nil, examined
		}
		list, err := json.Marshal(findings)
		if err != nil {
			return nil, examined // texts and words: there is no error
		}
		return list, examined
	}
}

// alsoNote returns an observer that hands connections on to another one, and
// notes the refused ones.
func alsoNote(refusals *admin.Refusals, next func(*record.Connection)) func(*record.Connection) {
	return func(c *record.Connection) {
		next(c)
		refusals.Note(c)
	}
}

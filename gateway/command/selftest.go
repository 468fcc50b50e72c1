package command

import (
	"context"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"unproxy/gateway"
	"unproxy/gateway/doctor"
	"unproxy/gateway/engine"
)

// newWatch returns what keeps an eye on the ways back of transparent forwards;
// nil where there are none.
func (s *server) newWatch(g *given) *doctor.Watch {
	if !slices.ContainsFunc(s.config.Forwards, func(f *engine.Forward) bool { return f.Transparent && !f.Datagrams }) {
		return nil
	}
	return doctor.NewWatch(doctor.WatchConfig{
		Host: doctor.This(), Config: s.config, Readiness: &s.readiness, Notice: s.sayWayBack,
		ApplyCommand: g.commandLine("routes apply"), PrintCommand: g.commandLine("routes print --backend-host"),
	})
}

// startWatch begins to test the ways back. New connections are served meanwhile,
// but the gateway is not called ready before the first test has ended, unless it
// takes over from a process that was. The function that it returns ends it.
func (s *server) startWatch() (stop func()) {
	s.readiness.Clear(gateway.NotReadyStarting)
	if s.watch == nil {
		return func() {}
	}
	if s.parent == nil {
		s.readiness.Set(gateway.NotReadyStarting, "the way back of transparent connections is being tested")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.watch.Run(ctx, s.config.SelfTestInterval, func() { s.readiness.Clear(gateway.NotReadyStarting) })
	}()
	return func() {
		cancel()
		<-ended
	}
}

// sayWayBack logs a change in what is known of a way back.
func (s *server) sayWayBack(e doctor.Event) {
	var l *zerolog.Event
	message := "return path works again"
	switch {
	case e.State == doctor.Broken:
		l, message = s.log.Error(), "return path broken"
	case e.State == doctor.Untested:
		l, message = s.log.Warn(), "return path not tested"
	case e.First:
		l, message = s.log.Info(), "return path works"
	default:
		l = s.log.Info()
	}
	l = l.Str("backend", e.Backend).Str("forward", strings.Join(e.Forwards, ", "))
	if e.Detail != "" {
		l = l.Str("detail", e.Detail)
	}
	if e.Hint != "" {
		l = l.Str("action", e.Hint)
	}
	l.Msg(message)
}

// commandLine writes the command that is given what this process was given, as
// far as it is about forwards and routes.
func (g *given) commandLine(command string) string {
	words := []string{"unproxy", command}
	for _, o := range options() {
		if o.group == "Process" || o.group == "Admin" || o.group == "Log" {
			continue
		}
		for _, v := range g.values[o.name] {
			if o.isSwitch {
				words = append(words, "--"+o.name+"="+v)
				continue
			}
			words = append(words, "--"+o.name, quoteArgument(v))
		}
	}
	return strings.Join(words, " ")
}

package daemon

import (
	"context"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"unproxy/gateway/doctor"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
)

// newWatch returns the self-test of return paths, or nil if no TCP forward is
// transparent.
func (d *daemon) newWatch() *doctor.Watch {
	if !slices.ContainsFunc(d.config.Gateway.Forwards, func(f *forward.Forward) bool {
		return f.Transparent && !f.Datagrams
	}) {
		return nil
	}
	return doctor.NewWatch(doctor.WatchConfig{
		Host: doctor.This(), Config: d.config.Gateway, Readiness: &d.readiness, Notice: d.logReturnPath,
		ApplyCommand: d.config.ApplyCommand, PrintCommand: d.config.PrintCommand,
	})
}

// startSelfTest starts the tests of the return paths; stop ends them. Connections are
// accepted meanwhile, but the gateway is not ready before the first test has ended,
// unless it takes over from a process that was ready.
func (d *daemon) startSelfTest() (stop func()) {
	d.readiness.Clear(readiness.Starting)
	if d.watch == nil {
		return func() {}
	}
	if d.parent == nil {
		d.readiness.Set(readiness.Starting, "the return paths of transparent connections are being tested")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.watch.Run(ctx, d.config.Gateway.SelfTestInterval, func() { d.readiness.Clear(readiness.Starting) })
	}()
	return func() {
		cancel()
		<-ended
	}
}

// logReturnPath logs a change of the state of a return path, or of what takes its place.
func (d *daemon) logReturnPath(e doctor.Event) {
	if e.Promise {
		d.logPromise(e)
		return
	}
	var line *zerolog.Event
	message := "return path works again"
	switch {
	case e.State == doctor.Broken:
		line, message = d.log.Error(), "return path broken"
	case e.State == doctor.Rewritten:
		line, message = d.log.Error(), "client address rewritten"
	case e.State == doctor.Untested:
		line, message = d.log.Warn(), "return path not tested"
	case e.First:
		line, message = d.log.Info(), "return path works"
	default:
		line = d.log.Info()
	}
	logTested(line, e, message)
}

// logPromise logs whether a backend's host promises to read clients' addresses.
func (d *daemon) logPromise(e doctor.Event) {
	line, message := d.log.Error(), "backend does not promise to read client addresses"
	switch e.State {
	case doctor.Works:
		line, message = d.log.Info(), "backend promises to read client addresses"
	case doctor.Untested:
		line, message = d.log.Warn(), "promise of backend not tested"
	}
	logTested(line, e, message)
}

// logTested ends a line about the test of a backend.
func logTested(line *zerolog.Event, e doctor.Event, message string) {
	line = line.Str("backend", e.Backend).Str("forward", strings.Join(e.Forwards, ", "))
	if e.Detail != "" {
		line = line.Str("detail", e.Detail)
	}
	if e.Hint != "" {
		line = line.Str("action", e.Hint)
	}
	line.Msg(message)
}

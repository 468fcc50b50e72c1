package doctor

import (
	"context"
	"net/netip"
	"slices"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/transparent/returnpath"
)

// Subject is the gateway that is to be examined.
type Subject struct {
	Config *config.Config
	// Warnings are those of the configuration.
	Warnings []config.Warning
	// Descriptors is how many files the process may have open; 0 is unknown.
	Descriptors int
	// Printing is the command that prints what a backend's host needs.
	Printing string
}

// examination is one examination of one gateway.
type examination struct {
	Subject
	host Host
	// spoofs and marks: a forward does. foreign says that one needs the socket
	// options of foreign addresses, to connect from them or to listen on them.
	spoofs, marks, foreign bool
	// optionErr is what is wrong with the socket options of those.
	optionErr error
	names     map[string]resolved
	targets   []*target
	plan      returnpath.Plan
	planErr   error
	sockets   map[bool][]socket  // that listen, or receive UDP, and
	owners    map[string]program // whose they are; nil until somebody asks
}

// Examine makes every check that concerns the gateway. It takes a few seconds at
// most, opens no listener of the gateway's, and changes nothing. Several checks
// are made at once.
func Examine(ctx context.Context, h Host, s Subject) Report {
	e := &examination{Subject: s, host: h}
	for _, f := range s.Config.Forwards {
		e.spoofs = e.spoofs || f.Transparent
		e.foreign = e.foreign || f.Transparent || f.TProxy
		e.marks = e.marks || f.Mark != 0
	}
	e.names = resolve(ctx, h.Lookup, s.Config.Forwards)
	e.targets = targets(s.Config.Forwards, e.names)
	if e.foreign {
		e.plan, e.planErr = h.Plan(ctx, s.Config, e.lookup)
	}
	if e.foreign || e.marks {
		e.optionErr = h.Options(e.foreign, e.marks)
	}
	checks := []func(context.Context) []Finding{
		e.settings, e.limits, e.privileged, e.kernel, e.listeners, e.diverted, e.planned, e.backends,
	}
	var all []Finding
	for _, check := range checks {
		all = append(all, check(ctx)...)
	}
	return Report{Findings: causes(all)}
}

// settings passes on what the configuration was warned of.
func (e *examination) settings(context.Context) []Finding {
	var all []Finding
	for _, w := range e.Warnings {
		code, target := Configuration, "settings"
		switch w.About {
		case config.AboutTrust:
			code, target = Trust, "trust"
		case config.AboutDescriptors:
			code, target = Descriptors, "open files"
		}
		f := finding(code, target, Warn, "%s", w.Message)
		if w.Hint != "" {
			f = f.with("# " + w.Hint)
		}
		all = append(all, f)
	}
	return all
}

// lookup answers for names that were looked up already.
func (e *examination) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	return e.names[name].addresses, e.names[name].err
}

// anyForward reports whether a forward matches.
func (e *examination) anyForward(match func(*forward.Forward) bool) bool {
	return slices.ContainsFunc(e.Config.Forwards, match)
}

package doctor

import (
	"context"
	"net/netip"
	"slices"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
	"unproxy/transparent/returnpath"
)

// Subject is the gateway to check.
type Subject struct {
	Config *config.Config
	// Warnings are the warnings about Config.
	Warnings []config.Warning
	// Descriptors is the limit on open files of the process; 0 if unknown.
	Descriptors int
	// PrintCommand is the shell command that prints the script for a backend's
	// host.
	PrintCommand string
	// Sandbox returns what is in force for the running gateway; nil if the gateway is
	// not this process.
	Sandbox func() *sandbox.Report
	// Running are the findings of a running gateway with this configuration, which is not
	// this process; nil if there is none.
	Running *Running
}

// Running is a gateway that has examined itself.
type Running struct {
	PID      int
	Findings []Finding
}

// run is one run of all checks.
type run struct {
	Subject
	host Host
	// spoofs and marks report whether a forward connects from foreign addresses
	// or sets a mark. foreign reports whether one needs the socket options for
	// foreign addresses, to connect from them or to listen on them.
	spoofs, marks, foreign bool
	// optionErr is the error of setting these socket options.
	optionErr error
	names     map[string]resolved
	targets   []*target
	plan      returnpath.Plan
	planErr   error
	sockets   map[bool][]socket  // by UDP; read on first use
	owners    map[string]program // by inode; read on first use
	// elsewhere says why this process cannot tell whether programs of package toa serve the
	// gateway; nil if it can.
	elsewhere *Finding
}

// Run runs all checks that apply to the gateway. It takes a few seconds at most,
// opens none of the gateway's listeners and changes nothing on the host. It makes
// several connections at the same time.
func Run(ctx context.Context, h Host, s Subject) Report {
	r := &run{Subject: s, host: h}
	for _, f := range s.Config.Forwards {
		r.spoofs = r.spoofs || f.ConnectsAsClient()
		r.foreign = r.foreign || f.ConnectsAsClient() || f.TProxy
		r.marks = r.marks || f.Mark != 0
	}
	r.names = resolve(ctx, h.Lookup, s.Config.Forwards)
	r.targets = targets(s.Config.Forwards, r.names)
	if r.foreign {
		r.plan, r.planErr = h.Plan(ctx, s.Config, r.lookup)
	}
	if r.foreign || r.marks {
		r.optionErr = h.Options(r.foreign, r.marks)
	}
	checks := []func(context.Context) []Finding{
		r.checkSettings, r.checkLocalhost, r.checkLimits, r.checkPrivileges, r.checkSandbox, r.checkPrograms, r.checkKernel,
		r.checkPorts, r.checkSourceAddresses,
		r.checkListeners, r.checkRedirects, r.checkPlan, r.checkBackends,
	}
	var all []Finding
	for _, check := range checks {
		all = append(all, check(ctx)...)
	}
	return Report{Findings: withoutConsequences(all)}
}

// lookup returns the addresses of a name that has been resolved.
func (r *run) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	return r.names[name].addresses, r.names[name].err
}

// anyForward reports whether any forward matches.
func (r *run) anyForward(match func(*forward.Forward) bool) bool {
	return slices.ContainsFunc(r.Config.Forwards, match)
}

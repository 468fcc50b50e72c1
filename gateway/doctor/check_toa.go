package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// errUnpromised is the error of an attempt whose offer was not answered with a promise.
var errUnpromised = errors.New("the SYN-ACK has no promise")

// checkPrograms checks whether programs of package toa are attached to the gateway's cgroup.
// Only a process in that cgroup can try them; for another one the running gateway answers.
func (r *run) checkPrograms(context.Context) []Finding {
	if !r.anyForward(func(f *forward.Forward) bool { return f.Transparent && f.TOA.On }) {
		return nil
	}
	if tested := r.testedByGateway(); len(tested) > 0 {
		return r.programsOfGateway(tested)
	}
	err := r.host.Programs()
	if r.Sandbox == nil {
		r.elsewhere = r.cannotTell(err)
	}
	switch {
	case r.elsewhere != nil:
		return []Finding{*r.elsewhere}
	case err == nil:
		return []Finding{finding(TOAAttached, "TCP option", OK, "programs send clients' addresses")}
	case !errors.Is(err, syscall.ENOPROTOOPT):
		return []Finding{finding(TOAAttached, "TCP option", Fail, "the programs on this host refuse a client: %v", err)}
	}
	return []Finding{r.host.unattached(TOAAttached, "TCP option")}
}

// testedByGateway returns the results of the running gateway's offers, by the names of
// the backends.
func (r *run) testedByGateway() map[string]Finding {
	if r.Running == nil {
		return nil
	}
	all := map[string]Finding{}
	for _, f := range r.Running.Findings {
		if f.Code == TOAPromise {
			all[f.Target] = f
		}
	}
	return all
}

// programsOfGateway concludes from the offers of the running gateway whether programs send
// clients' addresses. A failed offer says itself why.
func (r *run) programsOfGateway(tested map[string]Finding) []Finding {
	for _, f := range tested {
		if f.Status == OK {
			return []Finding{finding(TOAAttached, "TCP option", OK,
				"the running gateway, process %d, sends clients' addresses", r.Running.PID)}
		}
	}
	return nil
}

// promise returns the finding about a target's promise: that of the running gateway, or of an
// offer of this process if that has the programs.
func (r *run) promise(ctx context.Context, t *target) Finding {
	tested := r.testedByGateway()
	f, found := tested[t.name]
	switch {
	case found:
		f.Detail = fmt.Sprintf("the running gateway, process %d: %s", r.Running.PID, f.Detail)
		return f
	case len(tested) > 0:
		return finding(TOAPromise, t.name, Skip, "not tested: the running gateway, process %d, has no such backend", r.Running.PID)
	case r.elsewhere != nil:
		return finding(TOAPromise, t.name, Skip, "not tested: %s", r.elsewhere.Detail)
	}
	return r.host.checkPromise(ctx, t)
}

// cannotTell returns why this process, which is not the gateway, cannot tell whether programs
// serve the gateway. err is the result for this process's own cgroup.
func (r *run) cannotTell(err error) *Finding {
	own, pid := r.host.cgroup("self"), r.gatewayPID()
	theirs := r.host.cgroup(pid) // "" without a gateway
	var f Finding
	switch {
	case theirs == "" && !errors.Is(err, syscall.ENOPROTOOPT), theirs != "" && theirs == own:
		return nil
	case theirs != "":
		f = finding(TOAAttached, "TCP option", Skip,
			"not known: this process is in the cgroup %s, the gateway (process %s) in %s", own, pid, theirs).
			with("# add the gateway's --admin, which then answers for it; or run this command as root in its cgroup:",
				fmt.Sprintf("sh -c 'echo $$ >/sys/fs/cgroup%s/cgroup.procs && exec unproxy doctor \"$@\"' doctor ...", theirs))
	default:
		f = finding(TOAAttached, "TCP option", Skip,
			"not known: no program is attached to the cgroup of this process, %s, and no running gateway was found", cmp.Or(own, "self")).
			with("# if the gateway is running, add its --admin, which then answers for it",
				"# if it is started in this cgroup: "+attachCommand(cmp.Or(own, "self")))
	}
	return &f
}

// gatewayPID returns the process that has a listener of the configuration open, or "" if it
// is no gateway or cannot be seen.
func (r *run) gatewayPID() string {
	for _, f := range r.Config.Forwards {
		for _, l := range f.Listeners {
			var inodes []string
			if l.Endpoint.IsUnix() {
				inodes = []string{r.host.unixSocket(l.Endpoint.Path)}
			} else {
				at := l.Endpoint.Addr
				inodes = r.inodes(f.Datagrams, func(s socket) bool { return s.occupies(at) })
			}
			for _, inode := range inodes {
				if p, known := r.owner(inode); known && r.host.isGateway(p) {
					return p.pid
				}
			}
		}
	}
	return ""
}

// unattached returns the finding that no program takes a client.
func (h Host) unattached(c Code, target string) Finding {
	cgroup := cmp.Or(h.cgroup("self"), "self")
	f := finding(c, target, Fail,
		"no program sends clients' addresses: none is attached to the cgroup of this process, %s", cgroup)
	if cgroup == "/" {
		return f.with("# attach refuses the root of the hierarchy: start the gateway in its own cgroup, such as", attachCommand(cgroup))
	}
	return f.with(attachCommand(cgroup))
}

// attachCommand returns the command that attaches the programs to a cgroup, or to that of
// the service instead of the root, which attach refuses.
func attachCommand(cgroup string) string {
	if cgroup == "/" {
		cgroup = "system.slice/unproxy.service"
	}
	return "unproxy toa attach --gateway --cgroup " + cgroup
}

// cgroup returns the path of a process's cgroup below the root of the hierarchy, or "" if it
// is not known.
func (h Host) cgroup(pid string) string {
	text, err := fs.ReadFile(h.Files, "proc/"+pid+"/cgroup")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if path, ok := strings.CutPrefix(line, "0::"); ok {
				return strings.TrimSpace(path)
			}
		}
	}
	return ""
}

// checkPromise makes an offer to a target and resets the connection after the answer.
func (h Host) checkPromise(ctx context.Context, t *target) Finding {
	from, err := h.offer(ctx, t)
	switch {
	case err == nil && t.toa.Format == toa.Legacy:
		return finding(TOAPromise, t.name, Skip, "not tested: the legacy format has no promise")
	case err == nil:
		return finding(TOAPromise, t.name, OK, "its host promises to show clients")
	case errors.Is(err, errUnpromised):
		return finding(TOAPromise, t.name, Fail, "its host does not promise to show clients to the server").
			with("# on its host, as root:",
				fmt.Sprintf("unproxy toa attach --from %s --port %d", from.Addr(), t.at.Port()),
				"# if they are attached: unproxy toa check there")
	case errors.Is(err, syscall.ENOPROTOOPT):
		return h.unattached(TOAPromise, t.name)
	case errors.Is(err, syscall.EADDRNOTAVAIL) && t.source.IsValid():
		return finding(TOAPromise, t.name, Fail, "%s, of --toa-source, cannot be used: %v", t.source, err).
			with("# see: ip address")
	}
	return finding(TOAPromise, t.name, Skip, "not tested: %v", err)
}

// offer connects to a target as the gateway does for a client. from is this host's end.
func (h Host) offer(ctx context.Context, t *target) (from netip.AddrPort, err error) {
	client := transparent.TestClient(t.at.Addr().Is6())
	return h.try(ctx, Attempt{To: t.at, Own: t.source, Mark: t.mark, Client: client, Format: t.toa.Format})
}

// testPromise is the test of a [Watch] for a target whose clients travel in an option.
func (h Host) testPromise(ctx context.Context, t *target) testResult {
	f := h.checkPromise(ctx, t)
	switch f.Status {
	case OK:
		return testResult{Works, f}
	case Fail:
		return testResult{Broken, f}
	}
	return testResult{Untested, f}
}

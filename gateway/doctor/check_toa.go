package doctor

import (
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

// checkPrograms checks whether programs of package toa are attached to this process's cgroup.
func (r *run) checkPrograms(context.Context) []Finding {
	if !r.anyForward(func(f *forward.Forward) bool { return f.Transparent && f.TOA.On }) {
		return nil
	}
	switch err := r.host.Programs(); {
	case err == nil:
		return []Finding{finding(TOAAttached, "TCP option", OK, "programs send clients' addresses")}
	case !errors.Is(err, syscall.ENOPROTOOPT):
		return []Finding{finding(TOAAttached, "TCP option", Fail, "the programs on this host refuse a client: %v", err)}
	}
	return []Finding{r.host.unattached(TOAAttached, "TCP option")}
}

// unattached returns the finding that no program takes a client.
func (h Host) unattached(c Code, target string) Finding {
	cgroup := h.cgroup()
	return finding(c, target, Fail,
		"no program sends clients' addresses: none is attached to the cgroup of this process, %s", cgroup).
		with("unproxy toa attach --gateway --cgroup " + cgroup)
}

// cgroup returns the path of this process's cgroup below the root of the hierarchy.
func (h Host) cgroup() string {
	text, err := fs.ReadFile(h.Files, "proc/self/cgroup")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if path, ok := strings.CutPrefix(line, "0::"); ok {
				return strings.TrimSpace(path)
			}
		}
	}
	return "self"
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

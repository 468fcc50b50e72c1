package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"unproxy/gateway/forward"
	"unproxy/transparent/returnpath"
)

// maxConcurrent is the number of connections that the checks open at the same
// time.
const maxConcurrent = 16

// MaxDescriptors is the number of file descriptors that [Run] or a round of a [Watch]
// may hold open at the same time: one for each concurrent attempt, and a few for
// netlink and files.
const MaxDescriptors = maxConcurrent + 4

// forEach calls do for every target, several at a time, and waits for all calls.
func forEach(all []*target, do func(*target)) {
	slots := make(chan struct{}, maxConcurrent)
	var running sync.WaitGroup
	for _, t := range all {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			do(t)
		})
	}
	running.Wait()
}

// checkBackends checks whether the backends answer the gateway, and clients.
func (r *run) checkBackends(ctx context.Context) []Finding {
	for _, t := range r.targets {
		if t.udp {
			t.plain = r.receives(t)
		}
	}
	forEach(r.targets, func(t *target) {
		if !t.udp {
			t.plain = r.host.connectPlain(ctx, t)
		}
	})
	paths := make(map[*target][]Finding, len(r.targets))
	var mu sync.Mutex
	forEach(r.targets, func(t *target) {
		var found []Finding
		switch {
		case t.spoof:
			found = r.checkReturnPath(ctx, t)
		case t.toa.On && !t.udp:
			found = []Finding{r.promise(ctx, t)}
		}
		mu.Lock()
		defer mu.Unlock()
		paths[t] = found
	})
	var all []Finding
	for _, name := range hostsOf(r.Config.Forwards) {
		if err := r.names[name].err; err != nil {
			all = append(all, r.unresolved(name, err))
		}
	}
	for _, t := range r.targets {
		if f, disabled := r.ipv6(t); disabled {
			all = append(all, f)
		}
		if t.udp {
			all = append(all, r.datagrams(t))
		} else {
			all = append(all, r.backend(t))
		}
		all = append(all, paths[t]...)
	}
	return all
}

// plainResult is the result of a connection from the gateway's own address.
type plainResult struct {
	answer answer
	local  netip.AddrPort // the gateway's end
	err    error
}

// connectPlain connects to a target from the gateway's own address. For a unix
// socket it only checks that a program listens, because the server would accept
// the connection.
func (h Host) connectPlain(ctx context.Context, t *target) plainResult {
	if t.path != "" {
		if h.unixSocket(t.path) == "" {
			return plainResult{answer: refused}
		}
		return plainResult{}
	}
	local, err := h.try(ctx, Attempt{To: t.at, Own: t.source, Mark: t.mark})
	return plainResult{answerOf(err), local, err}
}

// receives reports, as an answer, whether a socket of this host receives what is
// sent to a UDP target. For another host it is silent: a UDP server need not
// answer.
func (r *run) receives(t *target) plainResult {
	switch {
	case !r.isLocal(t):
		return plainResult{answer: silent}
	case slices.ContainsFunc(r.open(true), func(s socket) bool { return s.receives(t.at) }):
		return plainResult{answer: answered}
	}
	return plainResult{answer: refused}
}

// backend returns the finding about a target's plain connection.
func (r *run) backend(t *target) Finding {
	status := Fail
	if r.hasAlternative(t) {
		status = Warn
	}
	switch t.plain.answer {
	case answered:
		return finding(Backend, t.name, OK, "answers")
	case refused:
		if t.onDemand {
			return finding(Backend, t.name, Skip, "no program listens now; the backend listens on demand")
		}
		detail := "refuses connections"
		if t.udp {
			detail = "no program receives on this address"
		}
		return finding(BackendRefused, t.name, status, "%s%s", detail, r.otherSockets(t)).
			with("# is the server running, and does it listen on this address?")
	case silent:
		return finding(BackendSilent, t.name, status, "does not answer within %v", answerTime).
			with("# is the host up, and does a firewall drop packets to it?")
	case unreachable:
		return finding(BackendUnreachable, t.name, status, "%v", t.plain.err).
			with("# see: ip route get " + t.at.Addr().String())
	case forbidden:
		if t.mark != 0 && errors.Is(r.optionErr, fs.ErrPermission) {
			return finding(Backend, t.name, Skip, "not tested: CAP_NET_RAW, which its mark needs, is missing")
		}
		return finding(BackendUnreachable, t.name, status, "a rule on this host forbids it: %v", t.plain.err).
			with("# see: nft list ruleset")
	}
	return finding(BackendUnreachable, t.name, status, "%v", t.plain.err)
}

// datagrams returns the finding about a UDP target.
func (r *run) datagrams(t *target) Finding {
	switch t.plain.answer {
	case silent:
		return finding(Backend, t.name, Skip, "not tested: a UDP server on another host need not answer")
	case refused:
		return r.backend(t)
	}
	if t.spoof && !slices.ContainsFunc(r.open(true), func(s socket) bool { return s.at == t.at }) {
		return finding(BackendWildcard, t.name, Warn, "the server's socket is bound to all addresses: unless the server "+
			"sets the source address itself, its replies leave from another one and do not reach the gateway").
			with("# have the server listen on " + t.at.Addr().String() + " only")
	}
	return finding(Backend, t.name, OK, "a program receives on this address")
}

// ipv6 returns a finding if a target has an IPv6 address and this host does not
// support IPv6.
func (r *run) ipv6(t *target) (Finding, bool) {
	if !t.at.Addr().Is6() {
		return Finding{}, false
	}
	if _, err := fs.Stat(r.host.Files, "proc/sys/net/ipv6"); err != nil {
		return finding(IPv6, t.name, Fail, "this host's kernel does not support IPv6").
			with("# use a backend with an IPv4 address"), true
	}
	parameter := "net.ipv6.conf.all.disable_ipv6"
	if t.at.Addr().IsLoopback() {
		parameter = "net.ipv6.conf.lo.disable_ipv6"
	}
	if r.host.sysctl(parameter, 0) == 0 {
		return Finding{}, false
	}
	return finding(IPv6, t.name, Fail, "IPv6 is disabled: %s is 1", parameter).
		with("sysctl -w " + parameter + "=0"), true
}

// unresolved returns the finding about a name that does not resolve.
func (r *run) unresolved(name string, err error) Finding {
	leadsTo := func(l *forward.Listener) bool {
		return slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return b.Host == name })
	}
	status := Warn
	for _, f := range r.Config.Forwards {
		for _, l := range ends(f.Listeners) {
			if leadsTo(l) && !r.hasAnswering(l, nil) {
				status = Fail
			}
		}
	}
	return finding(BackendName, name, status, "%v", err).with("# see: getent ahosts " + name)
}

// hasAlternative reports whether every listener that leads to a target leads to
// another one that answers. The gateway then uses that one.
func (r *run) hasAlternative(t *target) bool {
	return !slices.ContainsFunc(t.listeners, func(l *forward.Listener) bool { return !r.hasAnswering(l, t) })
}

// hasAnswering reports whether a listener leads to a target, other than except,
// that answers. If clients of except are connected to its address family only, the
// target must be of that family.
func (r *run) hasAnswering(l *forward.Listener, except *target) bool {
	return slices.ContainsFunc(r.targets, func(t *target) bool {
		usable := except == nil || !except.familyOnly || t.at.Addr().Is4() == except.at.Addr().Is4()
		return t != except && t.plain.answer == answered && usable && slices.Contains(t.listeners, l)
	})
}

// otherSockets names the addresses of this host on which other programs than the
// gateway listen on a target's port, if the target is on this host. A backend on
// the gateway's own listener would be a loop.
func (r *run) otherSockets(t *target) string {
	if !r.isLocal(t) {
		return ""
	}
	var found []string
	for _, s := range r.open(t.udp) {
		if s.at.Port() == t.at.Port() && !r.isOwn(s, t.udp) {
			found = append(found, s.at.String())
		}
	}
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf("; a program listens on %s", strings.Join(found, ", "))
}

// isOwn reports whether a socket is a listener of the configuration, or of a
// running gateway.
func (r *run) isOwn(s socket, udp bool) bool {
	configured := r.anyForward(func(f *forward.Forward) bool {
		return f.Datagrams == udp && slices.ContainsFunc(f.Listeners, func(l forward.Listener) bool {
			at := l.Endpoint.Addr
			return at == s.at || l.DualStack && at.Port() == s.at.Port() && s.at.Addr().IsUnspecified()
		})
	})
	return configured || r.isGatewaySocket(s)
}

// isLocal reports whether a target's address belongs to this host.
func (r *run) isLocal(t *target) bool {
	if t.path != "" {
		return false
	}
	place := reach(r.plan, t.at.Addr()).Place
	return place == returnpath.Loopback || place == returnpath.Local || t.at.Addr().IsLoopback()
}

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

// atOnce is how many connections the checks make at the same time.
const atOnce = 16

// MostDescriptors is how many file descriptors an examination or a round of a [Watch] may
// hold: its connections, and a few for files and netlink.
const MostDescriptors = atOnce + 4

// each calls do for every target, several at a time, and waits for all.
func each(all []*target, do func(*target)) {
	slots := make(chan struct{}, atOnce)
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

// backends looks at whether the backends answer the gateway, and clients.
func (e *examination) backends(ctx context.Context) []Finding {
	for _, t := range e.targets {
		if t.udp {
			t.plain = e.received(t)
		}
	}
	each(e.targets, func(t *target) {
		if !t.udp {
			t.plain = e.host.plainly(ctx, t)
		}
	})
	ways := make(map[*target][]Finding, len(e.targets))
	var mu sync.Mutex
	each(e.targets, func(t *target) {
		if !t.spoof {
			return
		}
		found := e.wayBack(ctx, t)
		mu.Lock()
		defer mu.Unlock()
		ways[t] = found
	})
	var all []Finding
	for _, name := range hostsOf(e.Config.Forwards) {
		if err := e.names[name].err; err != nil {
			all = append(all, e.unresolved(name, err))
		}
	}
	for _, t := range e.targets {
		if f, off := e.ipv6(t); off {
			all = append(all, f)
		}
		if t.udp {
			all = append(all, e.datagrams(t))
		} else {
			all = append(all, e.backend(t))
		}
		all = append(all, ways[t]...)
	}
	return all
}

// seen is what came of a plain connection.
type seen struct {
	answer answer
	local  netip.AddrPort // our end
	err    error
}

// plainly connects to a target from the gateway's own address. A unix socket is
// only looked at: its server would have to accept.
func (h Host) plainly(ctx context.Context, t *target) seen {
	if t.path != "" {
		if h.unixSocket(t.path) == "" {
			return seen{answer: refused}
		}
		return seen{}
	}
	local, err := h.try(ctx, Attempt{To: t.at, Mark: t.mark})
	return seen{answerOf(err), local, err}
}

// backend is the finding about a target's plain connection.
func (e *examination) backend(t *target) Finding {
	status := Fail
	if e.replaced(t) {
		status = Warn
	}
	switch t.plain.answer {
	case answered:
		return finding(Backend, t.name, OK, "answers")
	case refused:
		return finding(BackendRefused, t.name, status, "nobody listens there%s", e.elsewhere(t)).
			with("# is the server running, and does it listen on this address?")
	case silent:
		return finding(BackendSilent, t.name, status, "does not answer within %v", answerTime).
			with("# is the host up, and does a firewall drop packets to it?")
	case unreachable:
		return finding(BackendUnreachable, t.name, status, "%v", t.plain.err).with("# see: ip route get " + t.at.Addr().String())
	case forbidden:
		if t.mark != 0 && errors.Is(e.optionErr, fs.ErrPermission) {
			return finding(Backend, t.name, Skip, "not tried: CAP_NET_RAW, which its mark takes, is missing")
		}
		return finding(BackendUnreachable, t.name, status, "a rule of this host's forbids it: %v", t.plain.err).with("# see: nft list ruleset")
	}
	return finding(BackendUnreachable, t.name, status, "%v", t.plain.err)
}

func (e *examination) unresolved(name string, err error) Finding {
	leads := func(l *forward.Listener) bool {
		return slices.ContainsFunc(l.Backends, func(b forward.Backend) bool { return b.Host == name })
	}
	status := Warn
	for _, f := range e.Config.Forwards {
		for _, l := range ends(f.Listeners) {
			if leads(l) && !e.served(l, nil) {
				status = Fail
			}
		}
	}
	return finding(BackendName, name, status, "%v", err).with("# see: getent ahosts " + name)
}

// replaced reports whether all that leads to a target has another one that
// answers: the first that does serves.
func (e *examination) replaced(t *target) bool {
	return !slices.ContainsFunc(t.listeners, func(l *forward.Listener) bool { return !e.served(l, t) })
}

// served reports whether a listener leads to a target that answers, other than
// one. Where that one's clients are connected to backends of their own family
// alone, it must be of that family.
func (e *examination) served(l *forward.Listener, other *target) bool {
	return slices.ContainsFunc(e.targets, func(t *target) bool {
		alike := other == nil || !other.familyOnly || t.at.Addr().Is4() == other.at.Addr().Is4()
		return t != other && t.plain.answer == answered && alike && slices.Contains(t.listeners, l)
	})
}

// elsewhere says where somebody listens on the target's port, where that is a
// port of this host.
func (e *examination) elsewhere(t *target) string {
	if !e.isHere(t) {
		return ""
	}
	var found []string
	for _, s := range e.open(t.udp) {
		if s.at.Port() == t.at.Port() {
			found = append(found, s.at.String())
		}
	}
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf("; on %s somebody does", strings.Join(found, ", "))
}

// isHere reports whether a target's address is this host's.
func (e *examination) isHere(t *target) bool {
	if t.path != "" {
		return false
	}
	place := reach(e.plan, t.at.Addr()).Place
	return place == returnpath.Loopback || place == returnpath.Local || t.at.Addr().IsLoopback()
}

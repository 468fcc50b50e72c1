package config

import (
	"fmt"

	"unproxy/gateway/forward"
)

// tproxy looks at what is handed to a forward's listener.
func (v *validator) tproxy(f *forward.Forward) {
	switch {
	case !f.TProxy && len(f.Redirect) > 0:
		v.problem("redirect says what is handed to a tproxy listener, and this is none", "--tproxy, or leave --redirect out")
	case !f.TProxy:
	case f.HasUnixListener():
		v.problem("a unix socket takes no connections to other addresses", "--tproxy off, or listen on HOST:PORT")
	case len(f.Redirect) == 0:
		v.warn("nothing says what is handed to this tproxy listener: routes cannot know what to redirect", "--redirect 203.0.113.0/24:1000-2000")
	case len(f.Listeners) > 1:
		v.problem(fmt.Sprintf("%d listeners share a redirect: each connection can be handed to one alone", len(f.Listeners)), "listen on a single port")
	case f.Listeners[0].Endpoint.Addr.Port() == 0:
		v.problem("a redirect leads to a port that must be known", "listen on a port of your choice, not on 0")
	default:
		v.redirects(f.Listeners[0], f.Redirect)
	}
}

// redirects looks at each redirect of a listener by itself.
func (v *validator) redirects(l forward.Listener, all []forward.Redirect) {
	at := l.Endpoint.Addr.Addr()
	for _, r := range all {
		prefix := r.Prefix
		switch {
		case r.Low == 0 || r.Low > r.High:
			v.problem(fmt.Sprintf("redirect %s has no ports", r), "the first must be above 0 and not above the last")
		case prefix.IsValid() && prefix.Addr().Is4() != at.Is4() && !l.DualStack:
			v.problem(fmt.Sprintf("redirect %s is of the other address family than the listener", r), "listen on :PORT for both, or give each family a forward of its own")
		case r.AllPorts() && prefix.Bits() <= 0:
			v.warn(fmt.Sprintf("redirect %s takes every connection, also those to this host's own services", r), "keep --redirect to the ports and addresses that are needed")
		}
	}
}

// redirectedTwice looks for connections that belong to two listeners: that are
// handed to both, or to one in place of the one that they were sent to.
func (v *validator) redirectedTwice(c *Config) {
	for i, f := range c.Forwards {
		if len(f.Listeners) == 0 {
			continue
		}
		to := f.Listeners[0].Name
		for j, other := range c.Forwards {
			if i == j || len(other.Listeners) == 0 {
				continue
			}
			if one, two, found := shared(f.Redirect, other.Redirect); found && i < j {
				v.problem(fmt.Sprintf("connections to %s are handed to listener %s, and those to %s to listener %s: the two overlap",
					one, to, two, other.Listeners[0].Name), "let each redirect have addresses or ports of its own")
			}
			if r, l, found := hidden(f.Redirect, other.Listeners); found {
				v.hidden(r, to, "listener "+l.Name)
			}
		}
		for _, t := range c.Taken {
			if r, _, found := hidden(f.Redirect, []forward.Listener{t.listener()}); found {
				v.hidden(r, to, t.Flag+" "+t.Endpoint.String())
			}
		}
	}
}

// hidden records that a redirect to a listener takes another one's connections.
func (v *validator) hidden(r forward.Redirect, to, other string) {
	v.problem(fmt.Sprintf("connections to %s are handed to listener %s, also those that were sent to %s", r, to, other),
		"keep the ports of other listeners out of --redirect")
}

// shared returns a redirect of each list such that some connection is of both.
// The host's own addresses are taken to be outside of every prefix: nothing here
// knows them.
func shared(a, b []forward.Redirect) (one, other forward.Redirect, found bool) {
	for _, one := range a {
		for _, other := range b {
			if one.Low <= other.High && other.Low <= one.High && (one.Prefix == other.Prefix || one.Prefix.Overlaps(other.Prefix)) {
				return one, other, true
			}
		}
	}
	return one, other, false
}

// hidden returns a listener whose connections are redirected, as far as its
// address tells.
func hidden(redirects []forward.Redirect, listeners []forward.Listener) (forward.Redirect, forward.Listener, bool) {
	for _, r := range redirects {
		for _, l := range listeners {
			at := l.Endpoint.Addr
			if at.IsValid() && r.Low <= at.Port() && at.Port() <= r.High && !at.Addr().IsLoopback() &&
				(!r.Prefix.IsValid() || r.Prefix.Contains(at.Addr())) {
				return r, l, true
			}
		}
	}
	return forward.Redirect{}, forward.Listener{}, false
}

package config

import (
	"fmt"

	"unproxy/gateway/forward"
)

// tproxy checks the redirects of a forward.
func (v *validator) tproxy(f *forward.Forward) {
	switch {
	case !f.TProxy && len(f.Redirect) > 0:
		v.problem("redirect needs a tproxy listener", "add --tproxy, or leave --redirect out")
	case !f.TProxy:
	case f.HasUnixListener():
		v.problem("a unix socket cannot accept redirected connections", "--tproxy off, or listen on HOST:PORT")
	case len(f.Redirect) == 0:
		v.warn("no redirect is given for this tproxy listener: unproxy routes cannot plan one",
			"--redirect 203.0.113.0/24:1000-2000")
	case len(f.Listeners) > 1:
		v.problem(fmt.Sprintf("%d listeners share a redirect: a connection can be redirected to only one",
			len(f.Listeners)),
			"listen on a single port")
	case f.Listeners[0].Endpoint.Addr.Port() == 0:
		v.problem("a redirect needs a fixed port", "listen on a port other than 0")
	default:
		v.redirects(f.Listeners[0], f.Redirect)
	}
}

// redirects checks each redirect of a listener.
func (v *validator) redirects(l forward.Listener, all []forward.Redirect) {
	at := l.Endpoint.Addr.Addr()
	for _, r := range all {
		prefix := r.Prefix
		switch {
		case r.Low == 0 || r.Low > r.High:
			v.problem(fmt.Sprintf("redirect %s has no ports", r), "the first must be above 0 and not above the last")
		case prefix.IsValid() && prefix.Addr().Is4() != at.Is4() && !l.DualStack:
			v.problem(fmt.Sprintf("redirect %s and the listener have different address families", r),
				"listen on :PORT for both families, or use one forward per family")
		case r.AllPorts() && prefix.Bits() <= 0:
			v.warn(fmt.Sprintf("redirect %s takes every connection, including those to this host's own services", r),
				"limit --redirect to the ports and addresses that you need")
		}
	}
}

// redirectedTwice reports connections that match two listeners: redirects to both,
// or the address of one and a redirect to another.
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
				v.problem(fmt.Sprintf("redirect %s to listener %s and redirect %s to listener %s overlap",
					one, to, two, other.Listeners[0].Name), "use different addresses or ports")
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

// hidden reports a redirect that takes the connections of another listener.
func (v *validator) hidden(r forward.Redirect, to, other string) {
	v.problem(fmt.Sprintf("redirect %s to listener %s also takes the connections to %s", r, to, other),
		"keep the ports of other listeners out of --redirect")
}

// shared returns a redirect of each list if a connection can match both. The host's
// own addresses are not known here; none counts as part of a prefix.
func shared(a, b []forward.Redirect) (one, other forward.Redirect, found bool) {
	for _, one := range a {
		for _, other := range b {
			samePorts := one.Low <= other.High && other.Low <= one.High
			if samePorts && (one.Prefix == other.Prefix || one.Prefix.Overlaps(other.Prefix)) {
				return one, other, true
			}
		}
	}
	return one, other, false
}

// hidden returns a listener whose address is redirected, and the redirect. It does
// not know which addresses a wildcard listener covers.
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

package gateway

import (
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/gateway/settings"
)

// parseRedirect reads what is handed to a tproxy listener: PREFIX:PORTS, PREFIX
// for all ports, or :PORTS for the host's own addresses. PORTS is N or LOW-HIGH,
// PREFIX may be a single address, and one of IPv6 stands in brackets where ports
// follow it. The error is a [settings.Error].
func parseRedirect(text string) (forward.Redirect, error) {
	r := forward.Redirect{Low: 1, High: 65535}
	where, ports, hasPorts := text, "", false
	inner, bracketed := strings.CutPrefix(text, "[")
	switch {
	case bracketed:
		before, rest, closed := strings.Cut(inner, "]")
		where = before
		if ports, hasPorts = strings.CutPrefix(rest, ":"); !closed || !hasPorts && rest != "" {
			return r, notRedirect(text, "")
		}
	case strings.Count(text, ":") == 1:
		where, ports, hasPorts = strings.Cut(text, ":")
	}
	if hasPorts {
		span, err := parsePorts(ports)
		if err != nil || span.low == 0 {
			return r, notRedirect(text, "")
		}
		r.Low, r.High = span.low, span.high
	}
	if where == "" && hasPorts && !bracketed {
		return r, nil
	}
	prefix, err := parsePrefix(where)
	if err != nil {
		return r, notRedirect(text, portsAlone(text))
	}
	if prefix.IsSingleIP() && prefix.Addr().IsUnspecified() { // as a listener on all addresses is written
		return r, notRedirect(text, r.String())
	}
	r.Prefix = prefix.Masked()
	if prefix != r.Prefix || bracketed && prefix.Addr().Is4() {
		return r, notRedirect(text, r.String())
	}
	return r, nil
}

// notRedirect is the error for a text that is none; instead is what was
// probably meant, or "".
func notRedirect(text, instead string) error {
	return &settings.Error{
		Value:   text,
		Why:     "is not PREFIX:PORTS, PREFIX or :PORTS, such as 203.0.113.0/24:1000-2000, [2001:db8::/64]:443 or :1000-2000",
		Instead: instead,
	}
}

// portsAlone guesses that somebody left the colon out.
func portsAlone(text string) string {
	if span, err := parsePorts(text); err != nil || span.low == 0 {
		return ""
	}
	return ":" + text
}

// parsePrefix reads a prefix, or an address for the prefix that holds it alone.
// A 4-in-6 one is refused: no packet bears such an address.
func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		text += "/32"
		if strings.Contains(text, ":") {
			text = strings.TrimSuffix(text, "32") + "128"
		}
	}
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() {
		err = fmt.Errorf("prefix %q is of IPv4 addresses in IPv6 ones", settings.Shorten(text))
	}
	return p, err
}

// tproxy looks at what is handed to a forward's listener.
func (v *validator) tproxy(f *forward.Forward) {
	switch {
	case !f.TProxy && len(f.Redirect) > 0:
		v.problem("redirect says what is handed to a tproxy listener, and this is none", "--tproxy, or leave --redirect out")
	case !f.TProxy:
	case hasUnixListener(f):
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
func (v *validator) redirectedTwice(forwards []*forward.Forward) {
	for i, f := range forwards {
		for j, other := range forwards {
			if i == j || len(f.Listeners) == 0 || len(other.Listeners) == 0 {
				continue
			}
			to, name := f.Listeners[0].Name, other.Listeners[0].Name
			if one, two, found := shared(f.Redirect, other.Redirect); found && i < j {
				v.problem(fmt.Sprintf("connections to %s are handed to listener %s, and those to %s to listener %s: the two overlap", one, to, two, name),
					"let each redirect have addresses or ports of its own")
			}
			if r, l, found := hidden(f.Redirect, other.Listeners); found {
				v.problem(fmt.Sprintf("connections to %s are handed to listener %s, also those that were sent to listener %s", r, to, l.Name),
					"keep the ports of other listeners out of --redirect")
			}
		}
	}
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

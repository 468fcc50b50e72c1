package config

import (
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// parseRedirect parses the value of --redirect: PREFIX:PORTS, PREFIX for all
// ports, or :PORTS for the host's own addresses. PORTS is N or LOW-HIGH. PREFIX may
// be a single address; an IPv6 prefix with ports needs brackets. The error is a
// [value.Error].
func parseRedirect(text string) (forward.Redirect, error) {
	r := forward.Redirect{Low: 1, High: 65535}
	where, ports, hasPorts := text, "", false
	inner, bracketed := strings.CutPrefix(text, "[")
	switch {
	case bracketed:
		before, rest, closed := strings.Cut(inner, "]")
		where = before
		if ports, hasPorts = strings.CutPrefix(rest, ":"); !closed || !hasPorts && rest != "" {
			return forward.Redirect{}, notRedirect(text, "")
		}
	case strings.Count(text, ":") == 1:
		where, ports, hasPorts = strings.Cut(text, ":")
	}
	if hasPorts {
		span, err := parsePorts(ports)
		if err != nil || span.low == 0 {
			return forward.Redirect{}, notRedirect(text, "")
		}
		r.Low, r.High = span.low, span.high
	}
	if where == "" && hasPorts && !bracketed {
		return r, nil
	}
	prefix, err := parsePrefix(where)
	if err != nil {
		return forward.Redirect{}, notRedirect(text, portsAlone(text))
	}
	if prefix.IsSingleIP() && prefix.Addr().IsUnspecified() { // probably meant as all addresses
		return forward.Redirect{}, notRedirect(text, r.String())
	}
	r.Prefix = prefix.Masked()
	if prefix != r.Prefix || bracketed && prefix.Addr().Is4() {
		return forward.Redirect{}, notRedirect(text, r.String())
	}
	return r, nil
}

// notRedirect returns the error for a text that is not a redirect. hint is the
// probably intended value, or "".
func notRedirect(text, hint string) error {
	return &value.Error{
		Value: text,
		Why:   "is not PREFIX:PORTS, PREFIX or :PORTS, such as 203.0.113.0/24:1000-2000, [2001:db8::/64]:443 or :1000-2000",
		Hint:  hint,
	}
}

// portsAlone returns text with a colon before it if that makes it a redirect, or "".
func portsAlone(text string) string {
	if span, err := parsePorts(text); err != nil || span.low == 0 {
		return ""
	}
	return ":" + text
}

// parsePrefix parses a prefix, or an address as a prefix of full length. It
// rejects IPv4-mapped addresses, which no packet carries.
func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		text += "/32"
		if strings.Contains(text, ":") {
			text = strings.TrimSuffix(text, "32") + "128"
		}
	}
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() {
		err = fmt.Errorf("prefix %q maps IPv4 addresses to IPv6", value.Shorten(text))
	}
	return p, err
}

package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guarded keeps web pages of others from using the endpoint through the browser
// of somebody who can reach it.
//
// A page cannot read the answers to what it asks of another origin, but it can
// ask; so requests that change something are refused when the browser says that
// they come from elsewhere. And it can be of our own origin in the browser's
// eyes, by a name that first led to its server and then to 127.0.0.1 (DNS
// rebinding); so where only this host can reach the endpoint, a request must be
// for this host.
func guarded(next http.Handler, at Address) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusForbidden, "a page of another origin may not do this")
	}))
	next = protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if at.TCP.Addr().IsLoopback() && !isThisHost(r.Host) {
			writeProblem(w, http.StatusForbidden, fmt.Sprintf("the request is for %q, and this is %s: use that, or localhost", shorten(r.Host), at))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isThisHost reports whether the value of a Host field means loopback.
func isThisHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// shorten keeps a text of the client's within bounds.
func shorten(s string) string { return s[:min(len(s), 100)] }

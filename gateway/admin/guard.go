package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guarded protects the endpoint against web pages of other origins in the browser
// of a user who can reach it.
//
// A page cannot read answers from another origin, but it can send requests.
// Requests that change something are therefore refused if the browser marks them
// as cross-origin. With DNS rebinding, a page can make its own host name resolve
// to 127.0.0.1, so that the browser takes the endpoint for the page's origin. On
// a loopback address the Host field must therefore name loopback. Browsers always
// send it, so a probe may leave it out.
func guarded(next http.Handler, at Address) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, "cross-origin request refused")
	}))
	next = protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at.TCP.Addr().IsLoopback() && !isThisHost(r.Host) && !isPlainProbe(r) {
			writeError(w, http.StatusForbidden,
				fmt.Sprintf("host %.100q is not this endpoint: use %s or localhost", r.Host, at))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses GET requests that a browser sends for a page of another origin,
// for handlers that cost more than others. Other programs do not send the field
// (Fetch Metadata Request Headers, section 2.4).
func sameOrigin(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "same-origin", "none": // none: typed by the user
			next(w, r)
		default:
			writeError(w, http.StatusForbidden, "cross-origin request refused")
		}
	}
}

// withHeader sets the fields of every answer that tell browsers what not to do.
func withHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// isThisHost reports whether the value of a Host field is localhost or a loopback
// address, with or without a port.
func isThisHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

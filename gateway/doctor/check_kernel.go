package doctor

import (
	"context"
	"fmt"
	"strings"
)

// Usage of the connection tracking table, in percent, that is worth a warning and
// that makes the host drop connections.
const (
	conntrackWarn = 80
	conntrackFull = 100
)

// checkKernel checks the kernel parameters that affect transparent connections.
func (r *run) checkKernel(context.Context) []Finding {
	if !r.spoofs {
		return nil
	}
	var all []Finding
	for _, check := range []func() (Finding, bool){r.nonlocalBind, r.routeLocalnet, r.conntrack} {
		if f, found := check(); found {
			all = append(all, f)
		}
	}
	return all
}

func (r *run) nonlocalBind() (Finding, bool) {
	if r.host.sysctl("net.ipv4.ip_nonlocal_bind", 0) == 0 {
		return Finding{}, false
	}
	return finding(NonlocalBind, "ip_nonlocal_bind", Warn,
		"it is 1: a listener on a mistyped address opens but receives no connections").
		with("# unless something else, such as keepalived, needs it:", "sysctl -w net.ipv4.ip_nonlocal_bind=0"), true
}

func (r *run) routeLocalnet() (Finding, bool) {
	open := r.host.devices("route_localnet")
	if len(open) == 0 {
		return Finding{}, false
	}
	hint := []string{"# the gateway does not need it; unless something else, such as kube-proxy, does:"}
	for _, device := range open {
		hint = append(hint, "sysctl -w net.ipv4.conf."+device+".route_localnet=0")
	}
	return finding(RouteLocalnet, "route_localnet", Warn,
		"it is 1 for %s: hosts there can reach services on 127.0.0.1", strings.Join(open, ", ")).with(hint...), true
}

// conntrack checks the usage of the connection tracking table, if the module is
// loaded.
func (r *run) conntrack() (Finding, bool) {
	count, err := r.host.number("proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return Finding{}, false
	}
	limit, err := r.host.number("proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil || limit == 0 { // 0 is no limit
		return Finding{}, false
	}
	status := OK
	switch percent := count * 100 / limit; {
	case percent >= conntrackFull:
		status = Fail
	case percent >= conntrackWarn:
		status = Warn
	}
	f := finding(Conntrack, "conntrack", status, "%d of %d entries are in use", count, limit)
	if status != OK {
		f = f.with(fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*limit))
	}
	return f, true
}

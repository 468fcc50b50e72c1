package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
)

// Parts of the conntrack table, in percent, from which on it is told of.
const (
	conntrackNear = 80
	conntrackFull = 100
)

// kernel looks at what the host is set to, as far as it concerns transparent
// connections.
func (e *examination) kernel(context.Context) []Finding {
	if !e.spoofs {
		return nil
	}
	var all []Finding
	for _, check := range []func() (Finding, bool){e.nonlocalBind, e.routeLocalnet, e.conntrack} {
		if f, concerns := check(); concerns {
			all = append(all, f)
		}
	}
	return all
}

// ipv6 tells of a backend with an IPv6 address, of a host without IPv6.
func (e *examination) ipv6(t *target) (Finding, bool) {
	if !t.at.Addr().Is6() {
		return Finding{}, false
	}
	if _, err := fs.Stat(e.host.Files, "proc/sys/net/ipv6"); err != nil {
		return finding(IPv6, t.name, Fail, "this host's kernel has no IPv6").with("# give a backend with an IPv4 address"), true
	}
	parameter := "net.ipv6.conf.all.disable_ipv6"
	if t.at.Addr().IsLoopback() {
		parameter = "net.ipv6.conf.lo.disable_ipv6"
	}
	if e.host.setting(parameter, 0) == 0 {
		return Finding{}, false
	}
	return finding(IPv6, t.name, Fail, "IPv6 is off: %s is 1", parameter).with("sysctl -w " + parameter + "=0"), true
}

func (e *examination) nonlocalBind() (Finding, bool) {
	if e.host.setting("net.ipv4.ip_nonlocal_bind", 0) == 0 {
		return Finding{}, false
	}
	return finding(NonlocalBind, "ip_nonlocal_bind", Warn, "it is 1: a listener on a mistyped address opens, and gets nothing").
		with("# unless something else, such as keepalived, needs it:", "sysctl -w net.ipv4.ip_nonlocal_bind=0"), true
}

func (e *examination) routeLocalnet() (Finding, bool) {
	open := e.host.devices("route_localnet")
	if len(open) == 0 {
		return Finding{}, false
	}
	f := finding(RouteLocalnet, "route_localnet", Warn, "on for %s: hosts there can reach what listens on 127.0.0.1", strings.Join(open, ", "))
	f.Action = []string{"# the gateway does not need it; unless something else, such as kube-proxy, does:"}
	for _, device := range open {
		f.Action = append(f.Action, "sysctl -w net.ipv4.conf."+device+".route_localnet=0")
	}
	return f, true
}

// conntrack looks at how full the table of connections is. Without the module
// there is none.
func (e *examination) conntrack() (Finding, bool) {
	count, err := e.host.number("proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return Finding{}, false
	}
	most, err := e.host.number("proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil || most == 0 {
		return Finding{}, false // 0 is no limit
	}
	status := OK
	switch percent := count * 100 / most; {
	case percent >= conntrackFull:
		status = Fail
	case percent >= conntrackNear:
		status = Warn
	}
	f := finding(Conntrack, "conntrack", status, "%d of %d connections are tracked", count, most)
	if status != OK {
		f = f.with(fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*most))
	}
	return f, true
}

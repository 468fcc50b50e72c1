package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/transparent"
)

const (
	// fewDescriptors is a limit on open files that a busy gateway reaches. Many
	// systems have it by default.
	fewDescriptors = 4096
	// shortBacklog is a queue that a burst of connections overflows. Linux had a
	// default of 128 before version 5.4.
	shortBacklog = 1024
)

// checkSettings reports the warnings about the configuration.
func (r *run) checkSettings(context.Context) []Finding {
	var all []Finding
	for _, w := range r.Warnings {
		code, target := Configuration, "settings"
		switch w.About {
		case config.AboutTrust:
			code, target = Trust, "trust"
		case config.AboutDescriptors:
			code, target = Descriptors, "open files"
		case config.AboutLocalhost:
			continue // checkLocalhost knows more
		}
		f := finding(code, target, Warn, "%s", w.Message)
		if w.Hint != "" {
			f = f.with("# " + w.Hint)
		}
		all = append(all, f)
	}
	return all
}

// checkLimits checks the limits of the process and its sockets.
func (r *run) checkLimits(context.Context) []Finding {
	return append(r.descriptors(), r.backlog())
}

func (r *run) descriptors() []Finding {
	for _, w := range r.Warnings {
		if w.About == config.AboutDescriptors {
			return nil // checkSettings has reported it
		}
	}
	n := r.Descriptors
	switch {
	case n == 0:
		return []Finding{finding(Descriptors, "open files", Skip, "cannot read the limit on open files")}
	case n < fewDescriptors:
		f := finding(Descriptors, "open files", Warn, "the process may open only %d files; %s", n, r.connections())
		return []Finding{f.with("# in a systemd unit: LimitNOFILE=1048576; otherwise, as root: ulimit -Hn 1048576")}
	}
	return []Finding{finding(Descriptors, "open files", OK, "the process may open %d files; %s", n, r.connections())}
}

// connections describes the limit on connections.
func (r *run) connections() string {
	if r.Config.MaxConnections == 0 {
		return "the number of connections is not limited"
	}
	return fmt.Sprintf("at most %d connections", r.Config.MaxConnections)
}

func (r *run) backlog() Finding {
	n, err := r.host.number("proc/sys/net/core/somaxconn")
	if err != nil {
		return finding(Backlog, "listen queue", Skip, "cannot read net.core.somaxconn: %v", err)
	}
	if n < shortBacklog {
		return finding(Backlog, "listen queue", Warn, "only %d new connections can wait for a listener", n).
			with("sysctl -w net.core.somaxconn=4096")
	}
	return finding(Backlog, "listen queue", OK, "%d new connections can wait for a listener", n)
}

// checkPrivileges checks the capabilities of the process.
func (r *run) checkPrivileges(context.Context) []Finding {
	if !r.foreign && !r.marks {
		return nil
	}
	p, err := r.host.privileges()
	if err != nil {
		return []Finding{finding(NetRaw, "capabilities", Skip, "%v", err)}
	}
	all := []Finding{r.options(p)}
	if r.anyForward((*forward.Forward).UsesClientPort) {
		all = append(all, r.clientPorts(p))
	}
	return all
}

// options reports whether the socket options can be set. The capability sets alone
// do not tell: the capability must be effective in the right user namespace.
func (r *run) options(p privileges) Finding {
	err := r.optionErr
	var option *transparent.OptionError
	switch {
	case err == nil:
		return finding(NetRaw, "capabilities", OK, "CAP_NET_RAW is effective: the socket options can be set")
	case !errors.As(err, &option):
		return finding(SocketOptions, "socket options", Skip, "%v", err)
	case !errors.Is(err, fs.ErrPermission):
		return finding(SocketOptions, "socket options", Fail, "%v", err).with("# " + option.Hint())
	}
	why, hint := r.host.whyMissing(p, netRaw)
	return finding(NetRaw, "capabilities", Fail,
		"%s cannot be set because CAP_NET_RAW is missing: %s", option.Option, why).with(hint...)
}

// clientPorts reports whether every client port can be kept.
func (r *run) clientPorts(p privileges) Finding {
	first := r.host.firstUnprivilegedPort()
	if has(p.effective, netBindService.bit) || first == 0 {
		return finding(ClientPorts, "client ports", OK, "every client port can be kept")
	}
	keeps := r.anyForward(func(f *forward.Forward) bool {
		return f.ConnectsAsClient() && f.Source.SourcePort == transparent.Keep
	})
	if !keeps {
		return finding(ClientPorts, "client ports", OK,
			"clients with a port below %d appear with another one because CAP_NET_BIND_SERVICE is missing", first)
	}
	why, hint := r.host.whyMissing(p, netBindService)
	return finding(ClientPorts, "client ports", Warn,
		"with --source-port keep, clients with a port below %d are refused because CAP_NET_BIND_SERVICE is missing: %s",
		first, why).with(hint...)
}

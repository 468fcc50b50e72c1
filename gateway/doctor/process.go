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
	// fewDescriptors is a limit that a busy gateway reaches: it is what many
	// systems set unless told otherwise.
	fewDescriptors = 4096
	// shortBacklog is a queue that a burst of connections overruns. Linux had
	// 128 before version 5.4.
	shortBacklog = 1024
)

// limits looks at how much the process may have.
func (e *examination) limits(context.Context) []Finding {
	return append(e.descriptors(), e.backlog())
}

func (e *examination) descriptors() []Finding {
	for _, w := range e.Warnings {
		if w.About == config.AboutDescriptors {
			return nil // settings has told
		}
	}
	n := e.Descriptors
	switch {
	case n == 0:
		return []Finding{finding(Descriptors, "open files", Skip, "the limit on open files cannot be read")}
	case n < fewDescriptors:
		return []Finding{finding(Descriptors, "open files", Warn, "the process may have only %d; %s", n, e.connections()).
			with("# in a systemd unit: LimitNOFILE=1048576; else, as root: ulimit -Hn 1048576")}
	}
	return []Finding{finding(Descriptors, "open files", OK, "the process may have %d; %s", n, e.connections())}
}

// connections says how many there may be.
func (e *examination) connections() string {
	if e.Config.MaxConnections == 0 {
		return "the number of connections is not limited"
	}
	return fmt.Sprintf("at most %d connections", e.Config.MaxConnections)
}

func (e *examination) backlog() Finding {
	n, err := e.host.number("proc/sys/net/core/somaxconn")
	if err != nil {
		return finding(Backlog, "listen queue", Skip, "net.core.somaxconn cannot be read: %v", err)
	}
	if n < shortBacklog {
		return finding(Backlog, "listen queue", Warn, "at most %d new connections can wait for a listener", n).
			with("sysctl -w net.core.somaxconn=4096")
	}
	return finding(Backlog, "listen queue", OK, "%d new connections can wait for a listener", n)
}

// privileged looks at what the process may do.
func (e *examination) privileged(context.Context) []Finding {
	if !e.foreign && !e.marks {
		return nil
	}
	p, err := e.host.privileges()
	if err != nil {
		return []Finding{finding(NetRaw, "capabilities", Skip, "%v", err)}
	}
	all := []Finding{e.options(p)}
	if e.anyForward(func(f *forward.Forward) bool { return f.Transparent && f.Source.SourcePort != transparent.Any }) {
		all = append(all, e.clientPorts(p))
	}
	return all
}

// options tries the socket options, which is more than to look at a set: the
// capability must be one of the right user namespace.
func (e *examination) options(p privileges) Finding {
	err := e.optionErr
	var option *transparent.OptionError
	switch {
	case err == nil:
		return finding(NetRaw, "capabilities", OK, "CAP_NET_RAW is in force: the socket options can be set")
	case !errors.As(err, &option):
		return finding(SocketOptions, "socket options", Skip, "%v", err)
	case !errors.Is(err, fs.ErrPermission):
		return finding(SocketOptions, "socket options", Fail, "%v", err).with("# " + option.Hint())
	}
	why, action := e.host.whyMissing(p, netRaw)
	return finding(NetRaw, "capabilities", Fail, "%s cannot be set, for CAP_NET_RAW is missing: %s", option.Option, why).with(action...)
}

// clientPorts looks at whether a client's port can always be kept.
func (e *examination) clientPorts(p privileges) Finding {
	free := e.host.setting("net.ipv4.ip_unprivileged_port_start", 1024)
	if has(p.effective, netBindService.bit) || free == 0 {
		return finding(ClientPorts, "client ports", OK, "a client's port can be kept, whatever it is")
	}
	keeps := e.anyForward(func(f *forward.Forward) bool { return f.Transparent && f.Source.SourcePort == transparent.Keep })
	if !keeps {
		return finding(ClientPorts, "client ports", OK, "clients with a port below %d appear with another one, for CAP_NET_BIND_SERVICE is missing", free)
	}
	why, action := e.host.whyMissing(p, netBindService)
	return finding(ClientPorts, "client ports", Warn, "with --source-port keep, clients with a port below %d are refused, for CAP_NET_BIND_SERVICE is missing: %s", free, why).
		with(action...)
}

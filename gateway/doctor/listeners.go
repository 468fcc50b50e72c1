package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

// listeners looks at whether every listener can be opened. It binds each
// address, but does not listen there.
func (e *examination) listeners(context.Context) []Finding {
	var all []Finding
	for _, f := range e.Config.Forwards {
		var own []Finding
		for _, l := range f.Listeners {
			own = append(own, e.listener(l, f.Datagrams))
		}
		all = append(all, fold(own)...)
	}
	return all
}

// fold makes one finding of those about the ports of one range that are the
// same.
func fold(all []Finding) []Finding {
	var folded []Finding
	for _, f := range all {
		i := slices.IndexFunc(folded, func(g Finding) bool { return g.Code == f.Code && g.Detail == f.Detail })
		if i < 0 {
			folded = append(folded, f)
			continue
		}
		first, _, _ := strings.Cut(folded[i].Target, " to ")
		folded[i].Target = first + " to " + f.Target
	}
	return folded
}

func (e *examination) listener(l forward.Listener, udp bool) Finding {
	if l.Endpoint.IsUnix() {
		return e.unixListener(l)
	}
	at := l.Endpoint.Addr
	if !at.IsValid() || at.Port() == 0 {
		return finding(Listener, l.Name, OK, "the port is the kernel's choice")
	}
	bind := e.host.Bind
	if udp {
		bind = e.host.BindUDP
	}
	err := bind(at, l.DualStack)
	if l.DualStack && kernel.NoIPv6(err) {
		return finding(Listener, l.Name, OK, "can be opened, for IPv4 alone: this host has no IPv6")
	}
	switch {
	case err == nil:
		return finding(Listener, l.Name, OK, "can be opened")
	case errors.Is(err, syscall.EADDRINUSE):
		return e.taken(l.Name, e.inodes(udp, func(s socket) bool { return s.takes(at) || at.Addr().IsUnspecified() && s.at.Port() == at.Port() }))
	case errors.Is(err, fs.ErrPermission):
		return e.portForbidden(l.Name, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return finding(ListenerAddress, l.Name, Fail, "%s is no address of this host", at.Addr()).with("# see: ip address")
	}
	return finding(ListenerAddress, l.Name, Fail, "%v", err)
}

func (e *examination) portForbidden(name string, err error) Finding {
	p, readErr := e.host.privileges()
	if readErr != nil {
		return finding(ListenerPort, name, Fail, "%v", err)
	}
	why, action := e.host.whyMissing(p, netBindService)
	return finding(ListenerPort, name, Fail, "ports below %d take CAP_NET_BIND_SERVICE: %s",
		e.host.setting("net.ipv4.ip_unprivileged_port_start", 1024), why).with(action...)
}

// inodes returns the open sockets that match.
func (e *examination) inodes(udp bool, match func(socket) bool) []string {
	var all []string
	for _, s := range e.open(udp) {
		if match(s) {
			all = append(all, s.inode)
		}
	}
	return all
}

// open returns the sockets that listen, or receive, as they were when somebody
// first asked.
func (e *examination) open(udp bool) []socket {
	if e.sockets == nil {
		e.sockets = map[bool][]socket{}
	}
	if _, known := e.sockets[udp]; !known {
		e.sockets[udp] = e.host.sockets(udp)
	}
	return e.sockets[udp]
}

// taken is the finding of a listener that somebody has open already. That may
// well be the gateway.
func (e *examination) taken(name string, inodes []string) Finding {
	if e.owners == nil {
		e.owners = e.host.owners()
	}
	for _, inode := range inodes {
		p, found := e.owners[inode]
		switch {
		case !found:
		case e.host.isGateway(p):
			return finding(Listener, name, OK, "open: %s", p)
		default:
			return finding(ListenerTaken, name, Fail, "%s listens there", p).
				with("# stop it, or let the gateway listen on another port or address")
		}
	}
	return finding(ListenerTaken, name, Warn, "somebody listens there: well if it is the gateway; only root can see who it is").
		with("# see: sudo ss -tulnp")
}

// unixListener looks at the place of a unix socket.
func (e *examination) unixListener(l forward.Listener) Finding {
	dir := path.Dir(l.Endpoint.Path)
	info, err := fs.Stat(e.host.Files, inTree(dir))
	if err != nil || !info.IsDir() {
		return finding(ListenerAddress, l.Name, Fail, "there is no directory %s", dir).with("mkdir -p " + dir)
	}
	if inode := e.host.unixSocket(l.Endpoint.Path); inode != "" {
		return e.taken(l.Name, []string{inode})
	}
	info, err = fs.Lstat(e.host.Files, inTree(l.Endpoint.Path))
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return finding(ListenerAddress, l.Name, Fail, "%s is there and is no socket", l.Endpoint.Path).with(fmt.Sprintf("# rm %s", l.Endpoint.Path))
	}
	return finding(Listener, l.Name, OK, "can be opened")
}

// inTree writes an absolute path as package fs takes it.
func inTree(name string) string {
	if rest := strings.Trim(path.Clean(name), "/"); rest != "" {
		return rest
	}
	return "."
}

// unixSocket returns the inode of the socket that listens at a path, or "".
func (h Host) unixSocket(at string) string {
	const accepts = 1 << 16 // __SO_ACCEPTCON
	text, err := fs.ReadFile(h.Files, "proc/self/net/unix")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		var flags int
		if len(fields) < 8 || fields[7] != at {
			continue
		}
		if _, err := fmt.Sscanf(fields[3], "%x", &flags); err == nil && flags&accepts != 0 {
			return fields[6]
		}
	}
	return ""
}

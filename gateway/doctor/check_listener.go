package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
	"syscall"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

// checkListeners checks whether every listener can be opened. It binds each
// address but does not listen.
func (r *run) checkListeners(context.Context) []Finding {
	var all []Finding
	for _, f := range r.Config.Forwards {
		var found []Finding
		for _, l := range f.Listeners {
			found = append(found, r.listener(l, f.Datagrams))
		}
		all = append(all, mergeRange(found)...)
	}
	return all
}

// mergeRange merges equal findings about the ports of one range.
func mergeRange(all []Finding) []Finding {
	var merged []Finding
	for _, f := range all {
		i := slices.IndexFunc(merged, func(g Finding) bool { return g.Code == f.Code && g.Detail == f.Detail })
		if i < 0 {
			merged = append(merged, f)
			continue
		}
		first, _, _ := strings.Cut(merged[i].Target, " to ")
		merged[i].Target = first + " to " + f.Target
	}
	return merged
}

func (r *run) listener(l forward.Listener, udp bool) Finding {
	if l.Endpoint.IsUnix() {
		return r.unixListener(l)
	}
	at := l.Endpoint.Addr
	if !at.IsValid() || at.Port() == 0 {
		return finding(Listener, l.Name, OK, "the kernel chooses the port")
	}
	bind := r.host.Bind
	if udp {
		bind = r.host.BindUDP
	}
	err := bind(at, l.DualStack)
	if l.DualStack && kernel.NoIPv6(err) {
		return finding(Listener, l.Name, OK, "can be opened for IPv4 only: this host does not support IPv6")
	}
	switch {
	case err == nil:
		return finding(Listener, l.Name, OK, "can be opened")
	case errors.Is(err, syscall.EADDRINUSE):
		inodes := r.inodes(udp, func(s socket) bool { return s.occupies(at) })
		if len(inodes) == 0 {
			return r.heldByConnection(l.Name, at, udp)
		}
		return r.taken(l.Name, inodes)
	case errors.Is(err, fs.ErrPermission):
		return r.portForbidden(l.Name, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return finding(ListenerAddress, l.Name, Fail, "%s is not an address of this host", at.Addr()).
			with("# see: ip address")
	}
	return finding(ListenerAddress, l.Name, Fail, "%v", err)
}

func (r *run) portForbidden(name string, err error) Finding {
	p, readErr := r.host.privileges()
	if readErr != nil {
		return finding(ListenerPort, name, Fail, "%v", err)
	}
	why, hint := r.host.whyMissing(p, netBindService)
	return finding(ListenerPort, name, Fail,
		"ports below %d need CAP_NET_BIND_SERVICE: %s", r.host.firstUnprivilegedPort(), why).with(hint...)
}

// inodes returns the inodes of the open sockets that match.
func (r *run) inodes(udp bool, match func(socket) bool) []string {
	var all []string
	for _, s := range r.open(udp) {
		if match(s) {
			all = append(all, s.inode)
		}
	}
	return all
}

// open returns the sockets of this host that listen or receive. It reads them
// once.
func (r *run) open(udp bool) []socket {
	if r.sockets == nil {
		r.sockets = map[bool][]socket{}
	}
	if _, known := r.sockets[udp]; !known {
		r.sockets[udp] = r.host.sockets(udp)
	}
	return r.sockets[udp]
}

// taken returns the finding about a listener whose address is in use by one of the
// sockets. It may be the gateway's own.
func (r *run) taken(name string, inodes []string) Finding {
	for _, inode := range inodes {
		p, found := r.owner(inode)
		switch {
		case !found:
		case r.host.isGateway(p):
			return finding(Listener, name, OK, "open: %s", p)
		default:
			return finding(ListenerTaken, name, Fail, "%s listens on this address", p).
				with("# stop it, or give the gateway another port or address")
		}
	}
	return finding(ListenerTaken, name, Warn,
		"a program listens on this address; only root can see whether it is the gateway").with("# see: sudo ss -tulnp")
}

// heldByConnection returns the finding about a listener whose address is in use although
// nothing listens there.
func (r *run) heldByConnection(name string, at netip.AddrPort, udp bool) Finding {
	holder := r.host.Holder(at, udp)
	if !holder.Connection {
		return finding(ListenerTaken, name, Warn,
			"the address is in use, but this host's tables show neither a listener nor a connection with the port").
			with("# see: sudo ss -tuanp")
	}
	return finding(ListenerTaken, name, Fail, "%s", holder.Text).with(holder.Hint...)
}

// owner returns the program that has a socket open, if it can be seen. It reads
// the programs once.
func (r *run) owner(inode string) (program, bool) {
	if r.owners == nil {
		r.owners = r.host.owners()
	}
	p, found := r.owners[inode]
	return p, found
}

// isGatewaySocket reports whether a gateway has a socket open.
func (r *run) isGatewaySocket(s socket) bool {
	p, found := r.owner(s.inode)
	return found && r.host.isGateway(p)
}

// unixListener checks the path of a unix socket.
func (r *run) unixListener(l forward.Listener) Finding {
	dir := path.Dir(l.Endpoint.Path)
	info, err := fs.Stat(r.host.Files, fsPath(dir))
	if err != nil || !info.IsDir() {
		return finding(ListenerAddress, l.Name, Fail, "there is no directory %s", dir).with("mkdir -p " + dir)
	}
	if inode := r.host.unixSocket(l.Endpoint.Path); inode != "" {
		return r.taken(l.Name, []string{inode})
	}
	info, err = fs.Lstat(r.host.Files, fsPath(l.Endpoint.Path))
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return finding(ListenerAddress, l.Name, Fail, "%s exists and is not a socket", l.Endpoint.Path).
			with("# rm " + l.Endpoint.Path)
	}
	return finding(Listener, l.Name, OK, "can be opened")
}

// fsPath converts an absolute path to one of an [fs.FS] rooted at "/".
func fsPath(name string) string {
	if rest := strings.Trim(path.Clean(name), "/"); rest != "" {
		return rest
	}
	return "."
}

// checkRedirects checks whether the packet filter hands connections to the
// listeners with redirects.
func (r *run) checkRedirects(ctx context.Context) []Finding {
	part := r.plan.ForRedirects()
	if part.Empty() {
		return nil
	}
	var names []string
	for _, f := range r.Config.Forwards {
		if len(f.Redirect) > 0 {
			names = append(names, f.Listeners[0].Name)
		}
	}
	target := strings.Join(names, ", ")
	missing, err := r.host.Missing(ctx, part)
	switch {
	case !missing.Empty():
		return []Finding{finding(Redirect, target, Warn,
			"some of its rules in unproxy routes are not in force; other rules may hand connections to it").
			with(missing.Commands()...)}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{finding(Redirect, target, Skip, "the rules for it are in force; "+onlyRootReadsFilter)}
	case err != nil:
		return []Finding{finding(Redirect, target, Skip, "cannot read the rules that hand connections to it: %v", err)}
	}
	return []Finding{finding(Redirect, target, OK, "the packet filter hands connections to it")}
}

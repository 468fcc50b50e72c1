package doctor

import (
	"context"
	"io"
	"io/fs"
	"net/netip"

	"unproxy/gateway/config"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
	"unproxy/transparent/toa"
)

// lookupFunc resolves a host name to its addresses.
type lookupFunc = func(ctx context.Context, name string) ([]netip.Addr, error)

// Host gives the checks access to a machine. [This] returns the real one; tests use
// descriptions of others. All functions must be set and safe for concurrent use.
type Host struct {
	// Files is the file system from "/". Most checks read below proc.
	Files fs.FS
	// Executable is the path of the program. FileCapabilities is the permitted
	// set of its file, bit n for capability n (capabilities(7)).
	Executable       string
	FileCapabilities uint64

	// Options tests the socket options for foreign addresses, for marks, or for
	// both; see [unproxy/transparent.Check].
	Options func(foreign, mark bool) error
	// Programs tests whether programs on this host take a client for the TCP option;
	// see [unproxy/transparent/toa.Set].
	Programs func() error
	// Addresses returns the prefixes of which this host has every address.
	Addresses func() ([]netip.Prefix, error)
	// Lookup resolves a host name.
	Lookup lookupFunc
	// Connect opens a connection and closes it at once. Once the peer has
	// answered, it returns the local address. From a foreign address it returns
	// the source with which the first packet left this host, which a rule may
	// have rewritten, or the zero AddrPort if that cannot be seen. An offer without a
	// promise is an error.
	Connect func(context.Context, Attempt) (netip.AddrPort, error)
	// Sight returns why the packets of a connection cannot be seen, or nil if they can,
	// as far as they are not too many.
	Sight func() error
	// Listen listens on the address of a backend until it is closed.
	Listen func(at netip.AddrPort) (io.Closer, error)
	// Bind binds a TCP listener's address and closes the socket without
	// listening. dualStack accepts IPv4 on an IPv6 socket.
	Bind func(at netip.AddrPort, dualStack bool) error
	// BindUDP is Bind for UDP.
	BindUDP func(at netip.AddrPort, dualStack bool) error

	// Plan returns the plan of the return path; names resolves the backends'
	// names. See [routing.Plan].
	Plan func(ctx context.Context, c *config.Config, names lookupFunc) (returnpath.Plan, error)
	// Missing returns the part of a plan that is not in force; see
	// [routing.Missing].
	Missing func(context.Context, returnpath.Plan) (returnpath.Plan, error)
	// LookupRoute returns the kernel's routing decision; see [routing.Lookup].
	LookupRoute func(routing.Reply) (routing.Decision, error)
	// Networks returns the networks that an interface is directly connected to.
	Networks func(device string) ([]netip.Prefix, error)
	// Changes calls changed after each change of this host's addresses, interfaces,
	// rules and routes until ctx is done, other than of unicast routes.
	Changes func(ctx context.Context, changed func())
	// Firewall returns the rules of the packet filter as text; see
	// [routing.Ruleset].
	Firewall func(context.Context) (string, error)
}

// Attempt is a connection that a check opens.
type Attempt struct {
	To netip.AddrPort
	// From is the foreign source address. The zero AddrPort stands for the
	// gateway's own address.
	From netip.AddrPort
	// Own is the address of this host to connect from if From is not set; if it is invalid,
	// the kernel chooses.
	Own netip.Addr
	// Mark is the SO_MARK of the socket; 0 for none.
	Mark uint32
	// Client is offered in a TCP option with the format, and From is not used. The zero
	// AddrPort stands for no offer. The client's address is never sent: the connection
	// ends before.
	Client netip.AddrPort
	Format toa.Format
}

// withoutPrograms returns a host that runs no other programs, which a daemon's
// sandbox may forbid. It reports the packet filter as unreadable.
func (h Host) withoutPrograms() Host {
	missing := h.Missing
	h.Missing = func(ctx context.Context, p returnpath.Plan) (returnpath.Plan, error) {
		filter := p.Filter
		p.Filter = nil
		part, err := missing(ctx, p)
		if err == nil && filter != nil {
			err = fs.ErrPermission
		}
		return part, err
	}
	h.Firewall = func(context.Context) (string, error) { return "", fs.ErrPermission }
	return h
}

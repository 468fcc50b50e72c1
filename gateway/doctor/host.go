package doctor

import (
	"context"
	"io"
	"io/fs"
	"net/netip"

	"unproxy/gateway"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// Host is the machine as the doctor sees it. [This] is the one that it runs on;
// tests make up others. Its functions may be called from several goroutines.
type Host struct {
	// Files is the tree of files, from "/"; most of what is read is below proc.
	Files fs.FS
	// Executable is the path of the program, and FileCapabilities the set that
	// this file permits (capabilities(7)), a bit each.
	Executable       string
	FileCapabilities uint64

	// Options tries the socket options of foreign addresses, and of marks; see
	// [unproxy/transparent.Check].
	Options func(foreign, mark bool) error
	// Lookup resolves a name.
	Lookup lookup
	// Connect makes a connection and ends it at once. It returns our end's
	// address once the other side has answered.
	Connect func(context.Context, Attempt) (netip.AddrPort, error)
	// Stand listens in a backend's place, until it is closed.
	Stand func(at netip.AddrPort) (io.Closer, error)
	// Bind binds a listener's address and lets go of it again. Nobody can
	// connect meanwhile.
	Bind func(at netip.AddrPort, dualStack bool) error
	// BindUDP does so with UDP.
	BindUDP func(at netip.AddrPort, dualStack bool) error

	// Plan makes the plan of the way back, with names as they were resolved; see
	// [gateway.Config.PlanRoutes].
	Plan func(ctx context.Context, c *gateway.Config, names lookup) (returnpath.Plan, error)
	// Missing returns the part of a plan that is not in force.
	Missing func(context.Context, returnpath.Plan) (returnpath.Plan, error)
	// Way asks the kernel what becomes of a packet.
	Way func(routing.Reply) (routing.Decision, error)
	// Firewall returns the rules of the packet filter as text.
	Firewall func(context.Context) (string, error)
}

// Attempt is a connection that a check makes.
type Attempt struct {
	To netip.AddrPort
	// From is the foreign address to come from; the zero AddrPort is the
	// gateway's own.
	From netip.AddrPort
	// Mark is its SO_MARK, 0 for none.
	Mark uint32
}

package attach

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
)

// ServerConfig says whose clients the servers of a cgroup see, and on which ports.
type ServerConfig struct {
	// Cgroup is the directory of the cgroup, from [Resolve]. It covers the sockets that
	// processes in it and below it have made.
	Cgroup string
	// From lists the gateways by the addresses that this host sees; 1 to 4096 prefixes.
	// A connection from them to the ports must carry a client.
	From []netip.Prefix
	// Ports are the ports of listeners, in host byte order; 1 to 1024, none of them 0.
	Ports []uint16
	// Legacy accepts the options of kernel modules as well. Those have no negotiation.
	Legacy bool
}

// Result is what attaching has done.
type Result struct {
	Cgroup    string
	Upgraded  bool // programs were replaced
	Listeners Listeners
	Others    []Other // programs of others at the same hooks, which go on running
}

func (c ServerConfig) validate() error {
	if len(c.From) == 0 || len(c.From) > maxPrefixes {
		return fmt.Errorf("%d prefixes of gateways; want 1 to %d", len(c.From), maxPrefixes)
	}
	if len(c.Ports) == 0 || len(c.Ports) > maxPorts {
		return fmt.Errorf("%d ports; want 1 to %d", len(c.Ports), maxPorts)
	}
	for _, p := range c.From {
		if !p.IsValid() {
			return fmt.Errorf("invalid prefix %v of a gateway", p)
		}
	}
	for _, p := range c.Ports {
		if p == 0 {
			return fmt.Errorf("invalid port 0")
		}
	}
	return nil
}

// AttachServer attaches the server's programs to a cgroup, or replaces those that are
// attached, and makes the lists those of c. Connections that were accepted keep their
// clients. Listeners that exist already are marked if the kernel can do that, in every
// network namespace in which a process is; the result says which are not.
func AttachServer(c ServerConfig) (Result, error) {
	result := Result{Cgroup: c.Cgroup}
	if err := c.validate(); err != nil {
		return result, err
	}
	err := withAttached(c.Cgroup, Server, func(dir *os.File, a *attached) error {
		result.Upgraded, result.Others = a.count() > 0, a.others
		return a.install(dir, func(all map[string]*ebpf.Map) error {
			return explain("fill the lists", c.lists().write(all))
		})
	})
	if err == nil {
		result.Listeners = changeListeners(c.Cgroup, c.Ports, mark)
	}
	return result, err
}

// AttachGateway attaches the gateway's programs to a cgroup, or replaces those that are
// attached. Every process in the cgroup and below it can name a client, so the root of
// the host's hierarchy is refused.
func AttachGateway(path string) (Result, error) {
	result := Result{Cgroup: path}
	if err := refuseRoot(path, Gateway); err != nil {
		return result, err
	}
	err := withAttached(path, Gateway, func(dir *os.File, a *attached) error {
		result.Upgraded, result.Others = a.count() > 0, a.others
		return a.install(dir, func(map[string]*ebpf.Map) error { return nil })
	})
	return result, err
}

// refuseRoot refuses the root of the host's hierarchy for the gateway's programs.
func refuseRoot(path string, r Role) error {
	if r != Gateway || !isHostRoot(path) {
		return nil
	}
	return &Error{
		text: fmt.Sprintf("%s is the root of the hierarchy: every process of the host could name a client", path),
		hint: "attach to the gateway's own cgroup, such as system.slice/unproxy.service",
	}
}

// withAttached calls f with the locked directory of a cgroup and what is attached to it.
func withAttached(path string, r Role, f func(*os.File, *attached) error) error {
	if err := mayUse(); err != nil {
		return err
	}
	dir, err := open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	a, err := find(dir, r)
	if err != nil {
		return err
	}
	defer a.close()
	return f(dir, a)
}

// install loads the programs over the maps of those that are attached, prepares the maps,
// and attaches.
func (a *attached) install(dir *os.File, prepare func(map[string]*ebpf.Map) error) error {
	existing, err := a.maps()
	if err != nil {
		return err
	}
	defer closeMaps(existing)
	c, err := load(a.role, existing)
	if err != nil {
		return err
	}
	defer c.Close()
	if a.count() == 0 {
		if err := prepare(c.Maps); err != nil {
			return err
		}
		return a.attachAll(dir, c)
	}
	// New programs first: they may know entries that the old ones would misread.
	if err := a.attachAll(dir, c); err != nil {
		return err
	}
	return prepare(c.Maps)
}

// Detach takes the programs of a role from a cgroup. It reports whether there were any.
// Connections that were accepted then show the gateway's address.
func Detach(path string, r Role) (found bool, err error) {
	var ports []uint16
	err = withAttached(path, r, func(dir *os.File, a *attached) error {
		found = a.count() > 0
		l, err := a.lists()
		if err != nil {
			return err
		}
		ports = l.portList()
		return a.detachAll(dir)
	})
	if err == nil && len(ports) > 0 {
		changeListeners(path, ports, unmark)
	}
	return found, err
}

// lists returns the lists of the attached programs, empty ones for the gateway's role.
func (a *attached) lists() (l lists, err error) {
	all, err := a.maps()
	if err != nil {
		return l, err
	}
	defer closeMaps(all)
	return l, explain("read the lists", l.read(all))
}

package attach

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
)

// Attachment is what one cgroup has of one role.
type Attachment struct {
	Role    Role
	Cgroup  string
	Missing []string // programs that someone has detached; the rest protects less, or nothing
	Others  []Other

	// Of the server's role:
	From     []netip.Prefix
	Ports    []uint16
	Legacy   bool
	Counters []Counter
}

// Counter counts since the programs were attached for the first time. Upgrades keep it.
type Counter struct {
	Name  string
	Value uint64
}

// counters are the names of enum counter in lists.h.
var counters = [...]string{
	"promised",        // SYN-ACKs with a promise, those sent again too
	"taken",           // connections whose client the server sees
	"stranger",        // connections of others that carried a client: it was ignored
	"dropped_missing", // packets of gateways that would have completed a handshake without a client
	"dropped_denied",  // ... with a client that cannot be: loopback, multicast, this host's address …
	"dropped_family",  // ... with an IPv6 client for an AF_INET socket
	"dropped_data",    // SYNs of gateways with data (TCP Fast Open)
	"unknown",         // connections that show 0.0.0.0:0, because the gate was detached
}

// List returns what is attached to a cgroup and to those below it, in the order of paths.
func List(path string) ([]Attachment, error) {
	if err := mayUse(); err != nil {
		return nil, err
	}
	var all []Attachment
	err := walk(path, func(at string) error {
		for _, r := range []Role{Server, Gateway} {
			one, err := inspect(at, r)
			if err != nil {
				return err
			}
			if one != nil {
				all = append(all, *one)
			}
		}
		return nil
	})
	return all, err
}

// Listeners looks at the listeners on the ports of an attachment of the server's role.
func (of Attachment) Listeners() Listeners { return changeListeners(of.Cgroup, of.Ports, report) }

// inspect returns what a cgroup has of a role, nil if it has nothing.
func inspect(path string, r Role) (*Attachment, error) {
	dir, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	defer dir.Close()
	a, err := find(dir, r)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if a.count() == 0 {
		return nil, nil
	}
	of := &Attachment{Role: r, Cgroup: path, Others: a.others}
	for i, h := range r.hooks() {
		if a.ours[i] == nil {
			of.Missing = append(of.Missing, h.program)
		}
	}
	if r == Gateway {
		return of, nil
	}
	return of, of.read(a)
}

// read fills in the lists and counters.
func (of *Attachment) read(a *attached) error {
	all, err := a.maps()
	if err != nil {
		return err
	}
	defer closeMaps(all)
	var l lists
	if err := l.read(all); err != nil {
		return explain("read the lists", err)
	}
	of.From, of.Legacy = l.prefixes()
	of.Ports = l.portList()
	of.Counters, err = count(all["toa_counts"])
	return explain("read the counters", err)
}

// count adds up the counters of all processors.
func count(m *ebpf.Map) ([]Counter, error) {
	var all []Counter
	if m == nil {
		return nil, nil
	}
	for i, name := range counters {
		var each []uint64
		if err := m.Lookup(uint32(i), &each); err != nil {
			return nil, err
		}
		sum := uint64(0)
		for _, n := range each {
			sum += n
		}
		all = append(all, Counter{name, sum})
	}
	return all, nil
}

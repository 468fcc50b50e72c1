package admin

import "io/fs"

// Kind is what an endpoint serves, and so who may reach it.
type Kind uint8

// The kinds of endpoints.
const (
	// Control is the admin endpoint of --admin: every path, for the operator.
	Control Kind = iota
	// Probes is the health endpoint of --health: /healthz, /readyz and /metrics,
	// for load balancers and monitoring on any host. It is read-only, and its
	// answers hold no client's address.
	Probes
)

// Flag returns the flag of an endpoint, with its dashes.
func (k Kind) Flag() string {
	if k == Probes {
		return "--health"
	}
	return "--admin"
}

// String returns what messages call the endpoint.
func (k Kind) String() string {
	if k == Probes {
		return "health endpoint"
	}
	return "admin endpoint"
}

// socketMode returns the file mode of a unix socket. Only the owner may connect to
// an admin endpoint, and every user of the host to a health endpoint.
func (k Kind) socketMode() fs.FileMode {
	if k == Probes {
		return 0o666
	}
	return 0o600
}

// port and socket are the addresses that hints suggest.
func (k Kind) port() uint16 {
	if k == Probes {
		return 9181
	}
	return 9180
}

func (k Kind) socket() string {
	if k == Probes {
		return "unix:/run/unproxy/health.sock"
	}
	return "unix:/run/unproxy/admin.sock"
}

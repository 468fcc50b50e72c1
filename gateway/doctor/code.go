package doctor

import "slices"

// Code identifies the kind of a finding. Codes are stable: scripts may rely on them.
type Code string

// The codes, in the order of the checks.
const (
	Configuration      Code = "configuration"
	Trust              Code = "trust"
	Localhost          Code = "localhost"
	Descriptors        Code = "descriptors"
	Backlog            Code = "backlog"
	NetRaw             Code = "net_raw"
	SocketOptions      Code = "socket_options"
	ClientPorts        Code = "client_ports"
	Sandbox            Code = "sandbox"
	TOAAttached        Code = "toa_attached"
	NonlocalBind       Code = "nonlocal_bind"
	RouteLocalnet      Code = "route_localnet"
	Conntrack          Code = "conntrack"
	EphemeralPort      Code = "ephemeral_port"
	SourceAddress      Code = "source_address"
	Listener           Code = "listener"
	ListenerTaken      Code = "listener_taken"
	ListenerPort       Code = "listener_port"
	ListenerAddress    Code = "listener_address"
	Redirect           Code = "redirect"
	IPv6               Code = "ipv6"
	Backend            Code = "backend"
	BackendName        Code = "backend_name"
	BackendRefused     Code = "backend_refused"
	BackendSilent      Code = "backend_silent"
	BackendUnreachable Code = "backend_unreachable"
	BackendWildcard    Code = "backend_wildcard"
	TOAPromise         Code = "toa_promise"
	RoutePlan          Code = "route_plan"
	ReturnPath         Code = "return_path"
	RulesMissing       Code = "rules_missing"
	TableEmpty         Code = "table_empty"
	FilterMissing      Code = "filter_missing"
	RulesShadowed      Code = "rules_shadowed"
	ReversePath        Code = "reverse_path"
	DefaultRoute       Code = "default_route"
	BehindRouter       Code = "behind_router"
	RepliesLost        Code = "replies_lost"
	Fragments          Code = "fragments"
	Failover           Code = "failover"
	Firewall           Code = "firewall"
	SourceRewritten    Code = "source_rewritten"
)

// row describes a code.
type row struct {
	code      Code
	component string
	// meaning is one sentence for help and documentation.
	meaning string
	// causes are the codes whose failure explains this one. The report then omits
	// it.
	causes []Code
}

// The values of [Code.Component].
const (
	configuration = "configuration"
	process       = "process"
	host          = "host"
	listener      = "listener"
	backend       = "backend"
	returnPath    = "return path"
)

var table = []row{
	{Configuration, configuration, "A setting works but may be unintended.", nil},
	{Trust, configuration, "A trust rule covers more hosts than the load balancer.", nil},
	{Localhost, configuration, "Servers on this host see every client of plain mode as localhost.", nil},
	{Descriptors, process, "Each connection uses two of the files that the process may open.", nil},
	{Backlog, host, "New connections wait in a queue whose length the kernel limits.", nil},
	{NetRaw, process, "Transparent connections and marks need the capability CAP_NET_RAW.", nil},
	{SocketOptions, process, "The kernel must support the socket options for transparent connections.", []Code{NetRaw}},
	{ClientPorts, process,
		"Keeping a client's port below 1024 needs the capability CAP_NET_BIND_SERVICE.",
		[]Code{NetRaw}},
	{Sandbox, process, "The process drops the capabilities and the access to files that it does not need.", nil},
	{TOAAttached, process, "Programs attached to the gateway's cgroup send clients' addresses in a TCP option.", nil},
	{NonlocalBind, host, "With ip_nonlocal_bind a listener opens on an address that this host does not have.", nil},
	{RouteLocalnet, host, "With route_localnet hosts on the network can reach services on 127.0.0.1.", nil},
	{Conntrack, host, "The host drops new connections when its connection tracking table is full.", nil},
	{EphemeralPort, host, "The kernel may assign a listener's or a local backend's port to an outgoing connection.", nil},
	{SourceAddress, host, "This host has the addresses that it connects to backends from.", nil},
	{Listener, listener, "The listener can be opened, or the gateway has it open.", nil},
	{ListenerTaken, listener, "Another program listens on the address, or a connection has the port.", nil},
	{ListenerPort, listener, "A port below ip_unprivileged_port_start needs the capability CAP_NET_BIND_SERVICE.", nil},
	{ListenerAddress, listener, "The address is not one of this host, or the directory of the socket is missing.", nil},
	{Redirect, listener, "The packet filter hands redirected connections to the listener.", nil},
	{IPv6, backend, "A backend with an IPv6 address needs IPv6 to be enabled on this host.", nil},
	{Backend, backend, "The backend answers the gateway's own address.", []Code{NetRaw}},
	{BackendName, backend, "The backend's name does not resolve.", nil},
	{BackendRefused, backend, "The backend refuses connections.", []Code{IPv6}},
	{BackendSilent, backend, "The backend does not answer in time.", []Code{IPv6}},
	{BackendUnreachable, backend, "The backend cannot be reached.", []Code{IPv6}},
	{BackendWildcard, backend,
		"A UDP backend is bound to all addresses and may reply from another one than it was addressed at.",
		nil},
	{TOAPromise, backend,
		"The backend's host promises to show the server the client that the TCP option names.",
		[]Code{TOAAttached, IPv6, BackendRefused, BackendSilent, BackendUnreachable}},
	{RoutePlan, returnPath,
		"The rules for a backend have a limitation or a side effect.",
		[]Code{IPv6, BackendUnreachable, BehindRouter}},
	{ReturnPath, returnPath,
		"A connection from a client's address is answered.",
		[]Code{NetRaw, SocketOptions, IPv6, BackendUnreachable}},
	{RulesMissing, returnPath,
		"No rule delivers the backend's replies to the gateway.",
		[]Code{IPv6, BackendUnreachable}},
	{TableEmpty, returnPath, "The rules are in force, but the table that they look up has no route.", []Code{IPv6}},
	{FilterMissing, returnPath, "The packet filter does not mark the backend's replies.", []Code{IPv6}},
	{RulesShadowed, returnPath, "A rule before those of the gateway matches the backend's replies.", []Code{IPv6}},
	{ReversePath, returnPath, "The reverse-path filter of this host drops the backend's replies.", []Code{IPv6}},
	{DefaultRoute, returnPath, "Without a default route this host drops replies before it can mark them.", []Code{IPv6}},
	{BehindRouter, returnPath, "The backend is behind a router, and its replies do not pass this host.", []Code{IPv6}},
	{RepliesLost, returnPath,
		"All rules are in force on this host, but the backend's replies do not arrive.",
		[]Code{IPv6, Conntrack}},
	{Fragments, returnPath,
		"Replies of a UDP backend that exceed the MTU arrive in fragments, which this host must reassemble.",
		[]Code{IPv6, BackendUnreachable}},
	{Failover, returnPath,
		"The gateway learns that a UDP backend is down from ICMP errors, which must reach it.",
		[]Code{IPv6, BackendUnreachable}},
	{Firewall, returnPath, "Firewall rules may drop connections from foreign addresses.", []Code{IPv6}},
	{SourceRewritten, returnPath,
		"A rule of this host rewrites clients' addresses on the way to the backend.",
		[]Code{IPv6}},
}

// row returns the code's row, or the zero row if the code is unknown.
func (c Code) row() row {
	if i := slices.IndexFunc(table, func(r row) bool { return r.code == c }); i >= 0 {
		return table[i]
	}
	return row{}
}

// Meaning returns a description of the code in one sentence, or "" if the code is
// unknown.
func (c Code) Meaning() string { return c.row().meaning }

// Component returns the part of the gateway or its host that the code is about, or
// "" if the code is unknown.
func (c Code) Component() string { return c.row().component }

// follows reports whether a failure of cause explains a finding with code c.
func (c Code) follows(cause Code) bool { return slices.Contains(c.row().causes, cause) }

// Codes returns all codes, in the order of the checks. The caller owns the slice.
func Codes() []Code {
	all := make([]Code, len(table))
	for i, r := range table {
		all[i] = r.code
	}
	return all
}

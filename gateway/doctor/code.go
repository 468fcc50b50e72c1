package doctor

import "slices"

// Code is the stable word for what a finding is about. Scripts may rely on it.
type Code string

// The codes, in the order of the checks.
const (
	Configuration      Code = "configuration"
	Trust              Code = "trust"
	Descriptors        Code = "descriptors"
	Backlog            Code = "backlog"
	NetRaw             Code = "net_raw"
	SocketOptions      Code = "socket_options"
	ClientPorts        Code = "client_ports"
	NonlocalBind       Code = "nonlocal_bind"
	RouteLocalnet      Code = "route_localnet"
	Conntrack          Code = "conntrack"
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
	Firewall           Code = "firewall"
)

// row is what there is to know about a code.
type row struct {
	code      Code
	component string
	// meaning is a sentence, for help and the documentation.
	meaning string
	// after are the codes that explain this one: what follows from their
	// failure is not told a second time.
	after []Code
}

// The components.
const (
	configuration = "configuration"
	process       = "process"
	host          = "host"
	listener      = "listener"
	backend       = "backend"
	returnPath    = "return path"
)

var table = []row{
	{Configuration, configuration, "A setting works but may not be meant.", nil},
	{Trust, configuration, "A trust rule covers more hosts than the load balancer.", nil},
	{Descriptors, process, "Each connection takes two of the files that the process may have open.", nil},
	{Backlog, host, "New connections wait in a queue whose length the kernel bounds.", nil},
	{NetRaw, process, "Transparent connections and marks take the capability CAP_NET_RAW.", nil},
	{SocketOptions, process, "The kernel must know the socket options of transparent connections.", []Code{NetRaw}},
	{ClientPorts, process, "To keep a client's port below 1024 takes the capability CAP_NET_BIND_SERVICE.", []Code{NetRaw}},
	{NonlocalBind, host, "With ip_nonlocal_bind a listener opens on an address that this host does not have.", nil},
	{RouteLocalnet, host, "With route_localnet hosts on the network reach what listens on 127.0.0.1.", nil},
	{Conntrack, host, "A full table of connections makes the host drop new ones.", nil},
	{Listener, listener, "The listener can be opened, or the gateway has it open.", nil},
	{ListenerTaken, listener, "Another program listens there.", nil},
	{ListenerPort, listener, "A port below ip_unprivileged_port_start takes the capability CAP_NET_BIND_SERVICE.", nil},
	{ListenerAddress, listener, "The listener's address is none of this host's, or its directory is missing.", nil},
	{Redirect, listener, "Diverted connections are handed to the listener by the packet filter.", nil},
	{IPv6, backend, "A backend with an IPv6 address takes a host on which IPv6 is on.", nil},
	{Backend, backend, "The backend answers the gateway's own address.", []Code{NetRaw}},
	{BackendName, backend, "The backend's name does not resolve.", nil},
	{BackendRefused, backend, "The backend refuses connections: nobody listens there.", []Code{IPv6}},
	{BackendSilent, backend, "The backend does not answer in time.", []Code{IPv6}},
	{BackendUnreachable, backend, "There is no way to the backend.", []Code{IPv6}},
	{BackendWildcard, backend, "A UDP backend is bound to all addresses, so that its replies may leave by another than the one it was asked at.", nil},
	{RoutePlan, returnPath, "Something that the rules for a backend cannot do, or do besides.", []Code{IPv6, BackendUnreachable, BehindRouter}},
	{ReturnPath, returnPath, "A connection from a client's address is answered.", []Code{NetRaw, SocketOptions, IPv6, BackendUnreachable}},
	{RulesMissing, returnPath, "Nothing hands the backend's replies to the gateway.", []Code{IPv6, BackendUnreachable}},
	{TableEmpty, returnPath, "The rules are there, but the table that they look up is empty.", []Code{IPv6}},
	{FilterMissing, returnPath, "The packet filter does not mark the backend's replies.", []Code{IPv6}},
	{RulesShadowed, returnPath, "Another rule, before those of the gateway, takes the backend's replies.", []Code{IPv6}},
	{ReversePath, returnPath, "The reverse-path check of this host drops the backend's replies.", []Code{IPv6}},
	{DefaultRoute, returnPath, "Without a default route replies are dropped before they can be marked.", []Code{IPv6}},
	{BehindRouter, returnPath, "The backend is behind a router, and its replies go to the client itself.", []Code{IPv6}},
	{RepliesLost, returnPath, "All is in force here, and the backend's replies do not arrive.", []Code{IPv6, Conntrack}},
	{Firewall, returnPath, "Firewall rules that may drop connections from foreign addresses.", []Code{IPv6}},
}

// row returns the code's row; of a code that is none, an empty one.
func (c Code) row() row {
	if i := slices.IndexFunc(table, func(r row) bool { return r.code == c }); i >= 0 {
		return table[i]
	}
	return row{}
}

// Meaning returns what the code is about, in a sentence.
func (c Code) Meaning() string { return c.row().meaning }

// Component returns the part of the gateway or its host that the code is about.
func (c Code) Component() string { return c.row().component }

// follows reports whether a failure of code cause explains one of c.
func (c Code) follows(cause Code) bool { return slices.Contains(c.row().after, cause) }

// Codes returns every code, in the order of the checks.
func Codes() []Code {
	all := make([]Code, len(table))
	for i, r := range table {
		all[i] = r.code
	}
	return all
}

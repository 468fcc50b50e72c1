package config

import (
	"io/fs"
	"math"
	"net/netip"
	"slices"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/toa"
)

// The names of settings that this package refers to.
const (
	// ForwardFlag is the flag whose values are the forwards.
	ForwardFlag = "forward"
	// EnvFileFlag is the flag whose values are environment files.
	EnvFileFlag        = "env-file"
	trustFlag          = "trust"
	allowClientFlag    = "allow-client"
	denyClientFlag     = "deny-client"
	directFlag         = "direct"
	redirectFlag       = "redirect"
	onDemandFlag       = "on-demand"
	unknownFlag        = "unknown"
	maxConnectionsFlag = "max-connections"
	maxFlowsFlag       = "udp-max-flows"
	maxWaitingFlag     = "max-waiting"
	maxBufferFlag      = "max-buffer"
)

// The longest durations.
const (
	// longest prevents overflow in sums of durations.
	longest = 10 * 365 * 24 * time.Hour
	// longestWait is within the horizon of the engine's timers, 37 hours.
	longestWait = 24 * time.Hour
	// longestKeepalive is MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL in
	// include/net/tcp.h of the kernel.
	longestKeepalive = 32767 * time.Second
	// longestUserTimeout is the kernel's maximum, an int of milliseconds
	// (TCP_USER_TIMEOUT in do_tcp_setsockopt of net/ipv4/tcp.c).
	longestUserTimeout = math.MaxInt32 * time.Millisecond
	// longestSpin is much longer than a CPU takes to wake up. The Go runtime
	// preempts a goroutine after the same time.
	longestSpin = 10 * time.Millisecond
)

// table holds every setting, in the order of the help. It never changes.
var table = slices.Concat(
	forwardSettings, trustSettings, clientSettings, headerSettings, transparentSettings, backendSettings, datagramSettings,
	connectionSettings, processSettings, routeSettings, adminSettings, logSettings,
)

var forwardSettings = []Setting{
	{Name: ForwardFlag, Group: GroupForward, Argument: "SPEC", Repeatable: true,
		Meaning: "[udp://]LISTEN=BACKEND[,BACKEND...][?KEY=VALUE&...], at least one; short: -f"},
}

var trustSettings = []Setting{
	{Name: trustFlag, Group: GroupTrust, Argument: "RULE", Repeatable: true, Default: "none: refuses to start",
		Meaning: "peers that may name a client: a prefix, an address, the name of a preset, or any",
		forward: rules(trustList)},
	{Name: "trust-file", Group: GroupTrust, Argument: "PATH", Repeatable: true,
		Meaning: "a file of such rules, one per line, # starts a comment; adds to --trust",
		forward: files(trustList)},
	{Name: "untrusted", Group: GroupTrust, Argument: "reject|pass", Default: "reject",
		Meaning: "untrusted peers: reset them, or treat each as the client itself",
		forward: either(func(d *draft) *bool { return &d.PassUntrusted }, "reject", "pass")},
	{Name: "cut-untrusted", Group: GroupTrust, Switch: true, Default: "off",
		Meaning: "reset the connections of a peer that a reload no longer trusts",
		forward: onOff(func(d *draft) *bool { return &d.CutUntrusted })},
	{Name: "health-source", Group: GroupTrust, Argument: "RULE", Repeatable: true,
		Meaning: "peers that may connect without a header; closed cleanly, without a connection to the backend",
		forward: rules(healthList)},
	{Name: "socket-mode", Group: GroupTrust, Argument: "MODE", Default: "0660", Needs: NeedsUnixListener,
		Meaning: "mode of a unix listener; every process that may connect to it is trusted",
		forward: mode(func(d *draft) *fs.FileMode { return &d.SocketMode })},
}

var clientSettings = []Setting{
	{Name: allowClientFlag, Group: GroupClient, Argument: "RULE", Repeatable: true, Default: "all",
		Meaning: "clients that are served, and no others",
		forward: rules(allowClientList)},
	{Name: "allow-client-file", Group: GroupClient, Argument: "PATH", Repeatable: true,
		Meaning: "a file of such rules, one per line; adds to --allow-client",
		forward: files(allowClientList)},
	{Name: denyClientFlag, Group: GroupClient, Argument: "RULE", Repeatable: true,
		Meaning: "clients that are not served; takes precedence",
		forward: rules(denyClientList)},
	{Name: "deny-client-file", Group: GroupClient, Argument: "PATH", Repeatable: true,
		Meaning: "a file of such rules, one per line; adds to --deny-client",
		forward: files(denyClientList)},
	{Name: directFlag, Group: GroupClient, Argument: "RULE", Repeatable: true, Needs: NeedsInternetListener,
		Meaning: "peers that connect without a header: each is the client itself",
		forward: rules(directList)},
	{Name: "client-rate", Group: GroupClient, Argument: "N[/BURST]", Default: "off",
		Meaning: "connections and UDP flows per second from each client, and how many at once; the excess is refused",
		forward: rate(func(d *draft) *forward.Rate { return &d.ClientRate })},
}

var headerSettings = []Setting{
	{Name: "accept", Group: GroupHeader, Argument: "v1,v2", Default: "v1,v2", Needs: NeedsHeader,
		Meaning: "accepted header versions",
		forward: setAccept},
	{Name: "header-timeout", Group: GroupHeader, Argument: "D", Default: "5s", Needs: NeedsStream,
		Meaning: "time limit from accept to the last byte of the header; 0 is off",
		forward: duration(time.Millisecond, longestWait, func(d *draft) *time.Duration { return &d.HeaderTimeout })},
	{Name: "max-header", Group: GroupHeader, Argument: "SIZE", Default: "16KiB", Needs: NeedsHeader | NeedsV2,
		Meaning: "longest accepted v2 header",
		forward: setMaxHeader},
	{Name: "require-checksum", Group: GroupHeader, Switch: true, Default: "off", Needs: NeedsHeader | NeedsV2,
		Meaning: "reject headers without a correct CRC32C, including v2 LOCAL and every v1 header",
		forward: onOff(func(d *draft) *bool { return &d.Header.RequireChecksum })},
	{Name: "v1-mixed-families", Former: "v1-ipv4-in-tcp6", Group: GroupHeader, Switch: true, Default: "off",
		Needs:   NeedsStream | NeedsV1,
		Meaning: "accept v1 lines of nginx whose destination has another address family than the client",
		forward: onOff(func(d *draft) *bool { return &d.Header.MixedFamilies })},
	{Name: "headers", Group: GroupHeader, Argument: "N", Default: "1", Needs: NeedsHeader,
		Meaning: "exact number of stacked headers; the last one names the client, and v2 LOCAL is always the last",
		forward: setHeaders},
	{Name: "local", Group: GroupHeader, Argument: "relay|close", Default: "relay", Needs: NeedsHeader,
		Meaning: "v2 LOCAL headers, health checks: relay from the gateway's address, or close cleanly",
		forward: either(func(d *draft) *bool { return &d.CloseLocal }, "relay", "close")},
	{Name: unknownFlag, Group: GroupHeader, Argument: "relay|reject", Default: "relay; transparent: reject",
		Needs:   NeedsHeader,
		Meaning: "valid headers that name no usable client: relay from the gateway's address, or reject",
		forward: either(func(d *draft) *bool { return &d.RejectUnknown }, "relay", "reject")},
}

var transparentSettings = []Setting{
	{Name: "transparent", Group: GroupTransparent, Argument: "on|off|toa", Switch: true, Default: "off",
		Meaning: "connect to the backend from the client's own address; toa sends the address in a TCP option",
		forward: setTransparent},
	{Name: "source-port", Group: GroupTransparent, Argument: "prefer|keep|any", Default: "prefer",
		Needs:   NeedsClientAddress,
		Meaning: "the client's port, or another one if it is taken; only the client's port; any port",
		forward: word(func(d *draft) *transparent.SourcePort { return &d.Source.SourcePort },
			transparent.Prefer, transparent.Keep, transparent.Any)},
	{Name: "family-mismatch", Group: GroupTransparent, Argument: "reject|plain|map|carry", Default: "reject",
		Needs: NeedsTransparent,
		Meaning: "IPv6 client and IPv4 backend, or the reverse: reject; connect from the gateway's address;" +
			" show a stand-in address; with toa, send it as it is to a server that listens for both families",
		forward: word(func(d *draft) *transparent.FamilyMismatch { return &d.Source.FamilyMismatch },
			transparent.Reject, transparent.Plain, transparent.Map, transparent.Carry)},
	{Name: "map-prefix", Group: GroupTransparent, Argument: "PREFIX/96", Default: "64:ff9b::/96",
		Needs:   NeedsTransparent | NeedsMap,
		Meaning: "with --family-mismatch map: the stand-ins of IPv4 clients, which end in the client's address",
		forward: setMapPrefix},
	{Name: "allow-source", Group: GroupTransparent, Argument: "RULE", Repeatable: true, Needs: NeedsTransparent,
		Meaning: "allow headers to name a source that is denied by default, such as loopback",
		forward: rules(allowSourceList)},
	{Name: "toa-source", Group: GroupTransparent, Argument: "ADDR|PREFIX", Repeatable: true, Needs: NeedsTOA,
		Meaning: "this host's addresses for connections that carry a client, in turn; others do not come from them",
		forward: sourceAddresses(func(d *draft) *[]netip.Prefix { return &d.toaSources })},
	{Name: "toa-format", Group: GroupTransparent, Argument: "negotiated|legacy", Default: "negotiated", Needs: NeedsTOA,
		Meaning: "format of the TCP option; legacy is that of TOA kernel modules, without a promise that it is read",
		forward: word(func(d *draft) *toa.Format { return &d.TOA.Format }, toa.Negotiated, toa.Legacy)},
	{Name: "tproxy", Group: GroupTransparent, Argument: "on|off", Switch: true, Default: "off", Needs: NeedsStream,
		Meaning: "accept connections to any destination that the packet filter redirects",
		forward: onOff(func(d *draft) *bool { return &d.TProxy })},
	{Name: redirectFlag, Group: GroupTransparent, Argument: "PREFIX:PORTS", Repeatable: true, Needs: NeedsStream,
		Meaning: "connections to redirect: PREFIX:PORTS, PREFIX, or :PORTS of this host's own addresses",
		forward: setRedirect},
}

var backendSettings = []Setting{
	{Name: "allow-destination", Group: GroupBackend, Argument: "RULE", Repeatable: true, Needs: NeedsHeaderBackend,
		Meaning: "destinations allowed for BACKEND \"header\"; required with it",
		forward: rules(allowDestinationList)},
	{Name: "source-address", Group: GroupBackend, Argument: "ADDR|PREFIX", Repeatable: true,
		Needs:   NeedsPlain | NeedsAddress,
		Meaning: "this host's addresses to connect to the backend from, in turn; of a prefix all of them",
		forward: sourceAddresses(func(d *draft) *[]netip.Prefix { return &d.SourceAddresses })},
	{Name: "mark", Group: GroupBackend, Argument: "N", Default: "off", // a __u32, SO_MARK in sock_setsockopt
		Meaning: "SO_MARK of sockets to the backend",
		forward: number(math.MaxUint32, func(d *draft) *uint32 { return &d.Mark })},
	{Name: "connect-timeout", Group: GroupBackend, Argument: "D", Default: "5s", Needs: NeedsStream,
		Meaning: "time limit for connecting, all backends together; 0 is off",
		forward: duration(time.Millisecond, longestWait, func(d *draft) *time.Duration { return &d.ConnectTimeout })},
	{Name: "backend-check", Group: GroupBackend, Argument: "D", Default: "off", Needs: NeedsStream,
		Meaning: "connect to each backend so often; one that does not answer is tried last",
		forward: duration(100*time.Millisecond, longestWait, func(d *draft) *time.Duration { return &d.BackendCheck })},
	{Name: "backend-retry", Group: GroupBackend, Argument: "D", Default: "10s",
		Meaning: "try a backend that refused or timed out last for so long; 0 is off",
		forward: duration(time.Millisecond, longestWait, func(d *draft) *time.Duration { return &d.BackendRetry })},
	{Name: onDemandFlag, Group: GroupBackend, Argument: "on|off", Switch: true, Default: "off; a range of ports: on",
		Meaning: "the backend listens on demand, as for passive FTP: doctor and self-test do not require it",
		forward: onOff(func(d *draft) *bool { return &d.OnDemand })},
}

var datagramSettings = []Setting{
	{Name: "udp-header", Group: GroupDatagram, Argument: "every|first|spp", Default: "every", Needs: NeedsDatagrams,
		Meaning: "v2 header in every datagram; only in the first of a flow; Simple Proxy Protocol in both directions",
		forward: word(func(d *draft) *forward.DatagramHeader { return &d.DatagramHeader },
			forward.EveryDatagram, forward.FirstDatagram, forward.SimpleProxy)},
	{Name: "udp-idle-timeout", Group: GroupDatagram, Argument: "D", Default: "60s", Needs: NeedsDatagrams,
		Meaning: "end a flow after this time without a datagram in either direction;" +
			" with first: twice as long as the sender remembers a flow",
		forward: setFlowTimeout},
	{Name: maxFlowsFlag, Group: GroupDatagram, Argument: "N", Default: "from RLIMIT_NOFILE", Needs: NeedsDatagrams,
		Meaning: "at the limit, a new flow ends the one that has been silent the longest; 0 is off",
		forward: number(math.MaxInt32, func(d *draft) *int { return &d.MaxFlows }),
		process: number(math.MaxInt32, func(c *Config) *int { return &c.MaxFlows })},
}

var connectionSettings = []Setting{
	{Name: "idle-timeout", Group: GroupConnection, Argument: "D", Default: "off", Needs: NeedsStream,
		Meaning: "end a connection after this time without data",
		forward: duration(time.Millisecond, longest, func(d *draft) *time.Duration { return &d.IdleTimeout })},
	{Name: "keepalive", Group: GroupConnection, Argument: "D", Default: "15s", Needs: NeedsStream,
		Meaning: "TCP keep-alive: idle time and interval; 0 is off",
		forward: duration(time.Second, longestKeepalive, func(d *draft) *time.Duration { return &d.Keepalive })},
	{Name: "user-timeout", Group: GroupConnection, Argument: "D", Default: "off", Needs: NeedsStream,
		Meaning: "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged",
		forward: duration(time.Millisecond, longestUserTimeout, func(d *draft) *time.Duration { return &d.UserTimeout })},
	{Name: maxConnectionsFlag, Group: GroupConnection, Argument: "N", Default: "from RLIMIT_NOFILE", Needs: NeedsStream,
		Meaning: "at the limit, new connections wait in the kernel's queue; 0 is off",
		forward: number(math.MaxInt32, func(d *draft) *int { return &d.MaxConnections }),
		process: number(math.MaxInt32, func(c *Config) *int { return &c.MaxConnections })},
	{Name: "max-connections-per-client", Group: GroupConnection, Argument: "N", Default: "off",
		Meaning: "at the limit, a client's next connection is reset, its next UDP flow dropped",
		forward: number(math.MaxInt32, func(d *draft) *int { return &d.MaxConnectionsPerClient })},
	{Name: "accept-rate", Group: GroupConnection, Argument: "N[/BURST]", Default: "off",
		Meaning: "connections per second from each peer, and how many at once; beyond it, they are reset;" +
			" likewise new UDP flows, whose datagrams are dropped",
		forward: rate(func(d *draft) *forward.Rate { return &d.AcceptRate })},
}

var processSettings = []Setting{
	{Name: "loops", Group: GroupProcess, Argument: "N", Default: "CPUs",
		Meaning: "event loops, one thread each",
		process: setLoops},
	{Name: "spin", Group: GroupProcess, Argument: "D", Default: "off",
		Meaning: "poll for this time after an event before sleeping: lower latency with few connections," +
			" each loop's CPU at 100 %",
		process: duration(time.Microsecond, longestSpin, func(c *Config) *time.Duration { return &c.Spin })},
	{Name: maxWaitingFlag, Group: GroupProcess, Argument: "N", Default: "half of --max-connections", Needs: NeedsStream,
		Meaning: "connections that wait for their header; beyond it, the longest silent one is reset; 0 is off",
		process: number(math.MaxInt32, func(c *Config) *int { return &c.MaxWaiting })},
	{Name: maxBufferFlag, Group: GroupProcess, Argument: "SIZE", Default: "1/16 of the memory", Needs: NeedsStream,
		Meaning: "memory for bytes that slow readers have not taken, all connections together; beyond it," +
			" bytes wait in the kernel's sockets; 0 is off",
		process: setMaxBuffer},
	{Name: "drain-delay", Group: GroupProcess, Argument: "D", Default: "0s",
		Meaning: "continue to accept for this time after SIGTERM",
		process: duration(time.Millisecond, longest, func(c *Config) *time.Duration { return &c.DrainDelay })},
	{Name: "drain-timeout", Group: GroupProcess, Argument: "D", Default: "30s",
		Meaning: "time for connections to finish after that",
		process: duration(time.Millisecond, longest, func(c *Config) *time.Duration { return &c.DrainTimeout })},
	{Name: "self-test-interval", Group: GroupProcess, Argument: "D", Default: "30s", Needs: NeedsTransparent,
		Meaning: "how often the return path of transparent forwards is tested; 0 is off",
		process: duration(time.Second, longest, func(c *Config) *time.Duration { return &c.SelfTestInterval })},
	{Name: "reload-interval", Group: GroupProcess, Argument: "D", Default: "off",
		Meaning: "how often address-list files are polled for changes",
		process: duration(100*time.Millisecond, longest, func(c *Config) *time.Duration { return &c.ReloadInterval })},
	{Name: "user", Group: GroupProcess, Argument: "NAME[:GROUP]", Default: "the user that starts it",
		Meaning: "become this user once the listeners are open; keeps CAP_NET_RAW if needed",
		process: setUser},
	{Name: "sandbox", Group: GroupProcess, Argument: "auto|strict|off", Default: "auto",
		Meaning: "drop capabilities and access to files that are not needed: as far as the host can; or fail; or not",
		process: index(func(c *Config) *sandbox.Mode { return &c.Sandbox }, sandbox.ModeNames()...)},
	{Name: EnvFileFlag, Group: GroupProcess, Argument: "PATH", Repeatable: true,
		Meaning: "settings as in systemd's EnvironmentFile=; flags and variables override it; -PATH is optional",
		process: setEnvFiles},
	{Name: "upgrade-timeout", Group: GroupProcess, Argument: "D", Default: "30s",
		Meaning: "time limit for the process that takes over at SIGUSR2 to become ready",
		process: setUpgradeTimeout},
}

var routeSettings = []Setting{
	{Name: "route-table", Group: GroupRoutes, Argument: "N", Default: "7700", Needs: NeedsReturnPath,
		Meaning: "routing table in which every address is local",
		process: setRouteTable},
	{Name: "rule-preference", Group: GroupRoutes, Argument: "N", Default: "7700", Needs: NeedsReturnPath,
		Meaning: "preference of the rules for that table; two gateways on one host with the same backends need two",
		process: setRulePreference},
	{Name: "route-mark", Group: GroupRoutes, Argument: "N", Default: "7700", Needs: NeedsReturnPath,
		Meaning: "first of three marks for the packet filter: N, N+1 and N+2",
		process: setRouteMark},
	{Name: "recipe", Group: GroupRoutes, Argument: "auto|rules|marks", Default: "auto", Needs: NeedsReturnPath,
		Meaning: "rules by address and port, marks by the packet filter, or whichever affects no other traffic",
		process: index(func(c *Config) *returnpath.Recipe { return &c.Routes.Recipe }, returnpath.RecipeNames()...)},
}

// The endpoints and the log belong to the program, which reads their values. The bans are
// the gateway's.
var (
	adminSettings = []Setting{
		{Name: "admin", Group: GroupAdmin, Argument: "ADDR", Default: "off",
			Meaning: "HTTP endpoint with health, metrics and a status page, on 127.0.0.1:9180 or unix:PATH"},
		{Name: "admin-insecure", Group: GroupAdmin, Switch: true, Default: "off",
			Meaning: "allow an --admin address that other hosts, or every user of this host, can reach"},
		{Name: "health", Group: GroupAdmin, Argument: "ADDR", Default: "off",
			Meaning: "read-only HTTP endpoint for load balancers and monitoring, on :9181 or unix:PATH:" +
				" /healthz, /readyz and /metrics"},
		{Name: "ban-file", Group: GroupAdmin, Argument: "PATH",
			Meaning: "keep the bans of unproxy ban in this file, over a restart; its directory must be writable",
			process: setBanFile},
		{Name: "pprof", Group: GroupAdmin, Switch: true, Default: "off",
			Meaning: "serve profiles of the program at /debug/pprof/ of --admin"},
	}
	logSettings = []Setting{
		{Name: "log-format", Group: GroupLog, Argument: "auto|json|console", Default: "auto",
			Meaning: "lines on stderr; auto is console on a terminal, else json"},
		{Name: "log-level", Group: GroupLog, Argument: "debug|info|warn|error", Default: "info",
			Meaning: "lowest level that is logged"},
		{Name: "access-log", Group: GroupLog, Argument: "all|errors|off", Default: "all",
			Meaning: "one line for each finished connection"},
	}
)

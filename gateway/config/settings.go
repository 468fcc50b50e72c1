package config

import (
	"slices"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/proxyproto"
	"unproxy/transparent"
)

// Values are settings as an operator wrote them: for each name the texts that
// were given, in order.
type Values map[string][]string

// Setting is one thing that can be set for a connection: by the flag --Name
// for every forward, and by the key Name for one forward alone.
type Setting struct {
	// Name is the flag without its dashes, and the key.
	Name string
	// Group is the subject that it belongs to.
	Group Group
	// Argument stands for the value in the help, "D" or "relay|close".
	Argument string
	// Default is the value that holds when none is given, as help says it.
	Default string
	// Meaning says in a few words what it does.
	Meaning string
	// Repeatable settings may be given several times; a forward's own list
	// takes the place of the list that holds for all.
	Repeatable bool
	// Switch settings are on when they are given without a value.
	Switch bool

	// transparentOnly settings do nothing unless transparent is on.
	transparentOnly bool
	// streamOnly settings do nothing for forwards of datagrams, and headerOnly
	// ones nothing where what comes bears no PROXY header.
	streamOnly, headerOnly bool
	// set puts the values that were given, at least one, into the draft.
	set func(*draft, []string) error
}

// Group is a subject that settings belong to, in the order in which they are
// told of.
type Group uint8

// The groups.
const (
	GroupTrust Group = iota
	GroupHeader
	GroupTransparent
	GroupBackend
	GroupDatagram
	GroupConnection
)

// String returns the heading of the group.
func (g Group) String() string {
	return [...]string{
		GroupTrust:       "Whom to believe",
		GroupHeader:      "Headers",
		GroupTransparent: "Transparent mode",
		GroupBackend:     "Backends",
		GroupDatagram:    "UDP",
		GroupConnection:  "Connections",
	}[g]
}

// draft is a forward whose settings are being put together.
type draft struct {
	forward engine.Forward
	// given holds the settings that were given, for all or for this one.
	given map[string]bool
	// The lists of addresses are loaded when all is known.
	trust, health, allowSource, allowDestination list
}

// list is a list of addresses before it is loaded.
type list struct {
	rules, files []string
	// flag is what the rules were written after, for messages.
	flag string
}

// newDraft returns the draft in which no setting is given.
func newDraft() draft {
	return draft{
		given: map[string]bool{},
		forward: engine.Forward{
			SocketMode:     0o660,
			Header:         proxyproto.Options{MaxLength: 16 << 10},
			Headers:        1,
			HeaderTimeout:  5 * time.Second,
			ConnectTimeout: 5 * time.Second,
			Keepalive:      15 * time.Second,
			FlowTimeout:    60 * time.Second,
			Source:         transparent.Policy{SourcePort: transparent.Prefer, FamilyMismatch: transparent.Reject},
		},
	}
}

// Settings returns every per-connection setting, in the order in which help
// lists them.
func Settings() []Setting {
	return slices.Concat(trustSettings(), headerSettings(), transparentSettings(), backendSettings(), datagramSettings(), connectionSettings())
}

func trustSettings() []Setting {
	return inGroup(GroupTrust, []Setting{
		{Name: "trust", Argument: "RULE", Repeatable: true, Default: "none: refuses to start", set: setRules,
			Meaning: "who may name a client: a prefix, an address, a preset's name, or any"},
		{Name: "trust-file", Argument: "PATH", Repeatable: true, set: setFiles,
			Meaning: "a file of such rules, one a line, # comments; one list with --trust"},
		{Name: "untrusted", Argument: "reject|pass", Default: "reject", set: setUntrusted,
			Meaning: "a peer outside of that: reset, or taken as a client itself, unread"},
		{Name: "cut-untrusted", Switch: true, Default: "off", set: setCutUntrusted,
			Meaning: "reset what a peer has when a reload ends the trust in it"},
		{Name: "health-source", Argument: "RULE", Repeatable: true, set: setHealth,
			Meaning: "may connect without a header; closed cleanly, backend not bothered"},
		{Name: "socket-mode", Argument: "MODE", Default: "0660", set: setSocketMode,
			Meaning: "mode of a unix listener: who may connect to it is trusted"},
	})
}

func headerSettings() []Setting {
	return inGroup(GroupHeader, []Setting{
		{Name: "accept", Argument: "v1,v2", Default: "v1,v2", headerOnly: true, set: setAccept,
			Meaning: "header versions taken"},
		{Name: "header-timeout", Argument: "D", Default: "5s", streamOnly: true, set: setHeaderTimeout,
			Meaning: "from accept to the header's last byte; 0 is off"},
		{Name: "max-header", Argument: "SIZE", Default: "16KiB", headerOnly: true, set: setMaxHeader,
			Meaning: "longest v2 header taken"},
		{Name: "require-checksum", Switch: true, Default: "off", headerOnly: true, set: setChecksum,
			Meaning: "refuse v2 headers without CRC32C"},
		{Name: "v1-ipv4-in-tcp6", Switch: true, Default: "off", streamOnly: true, set: setIPv4InTCP6,
			Meaning: "take the TCP6 line with IPv4 addresses that nginx can send"},
		{Name: "headers", Argument: "N", Default: "1", headerOnly: true, set: setHeaders,
			Meaning: "exactly so many stacked headers; the last one names the client"},
		{Name: "local", Argument: "relay|close", Default: "relay", headerOnly: true, set: setLocal,
			Meaning: "v2 LOCAL, a health check: relayed as the gateway, or closed cleanly"},
		{Name: "unknown", Argument: "relay|reject", Default: "relay; transparent: reject", headerOnly: true, set: setUnknown,
			Meaning: "valid headers that name no usable client"},
	})
}

func transparentSettings() []Setting {
	return inGroup(GroupTransparent, []Setting{
		{Name: "transparent", Argument: "on|off", Switch: true, Default: "off", set: setTransparent,
			Meaning: "connect to the backend from the client's own address"},
		{Name: "source-port", Argument: "prefer|keep|any", Default: "prefer", set: setSourcePort, transparentOnly: true,
			Meaning: "the client's port, another if it is taken; only that; any"},
		{Name: "family-mismatch", Argument: "reject|plain|map", Default: "reject", set: setFamilyMismatch, transparentOnly: true,
			Meaning: "IPv6 client, IPv4 backend, or the reverse: refuse; the gateway's address; a stand-in"},
		{Name: "allow-source", Argument: "RULE", Repeatable: true, set: setAllowSource, transparentOnly: true,
			Meaning: "let a header name a source that is denied by default, such as loopback"},
		{Name: "tproxy", Argument: "on|off", Switch: true, Default: "off", streamOnly: true, set: setTProxy,
			Meaning: "take connections that the packet filter hands over, wherever they were sent to"},
		{Name: "redirect", Argument: "PREFIX:PORTS", Repeatable: true, streamOnly: true, set: setRedirect,
			Meaning: "which those are: PREFIX:PORTS, PREFIX, or :PORTS of this host's own addresses"},
	})
}

func backendSettings() []Setting {
	return inGroup(GroupBackend, []Setting{
		{Name: "allow-destination", Argument: "RULE", Repeatable: true, set: setAllowDestination,
			Meaning: "where BACKEND \"header\" may lead; required with it"},
		{Name: "mark", Argument: "N", Default: "off", set: setMark,
			Meaning: "SO_MARK of sockets to the backend"},
		{Name: "connect-timeout", Argument: "D", Default: "5s", streamOnly: true, set: setConnectTimeout,
			Meaning: "until a backend answers, all of them together; 0 is off"},
	})
}

func datagramSettings() []Setting {
	return inGroup(GroupDatagram, []Setting{
		{Name: "udp-header", Argument: "every|first|spp", Default: "every", set: setDatagramHeader,
			Meaning: "v2 header in each datagram; in a flow's first alone; Simple Proxy Protocol, both ways"},
		{Name: "udp-idle-timeout", Argument: "D", Default: "60s", set: setFlowTimeout,
			Meaning: "end a flow that was silent both ways for so long; first: twice as long as the sender remembers it"},
		{Name: MaxFlows, Argument: "N", Default: "from RLIMIT_NOFILE", set: setMaxFlows,
			Meaning: "at the limit the flow that was silent the longest gives way; 0 is off"},
	})
}

func connectionSettings() []Setting {
	return inGroup(GroupConnection, []Setting{
		{Name: "idle-timeout", Argument: "D", Default: "off", streamOnly: true, set: setIdleTimeout,
			Meaning: "end a connection that carried nothing for so long"},
		{Name: "keepalive", Argument: "D", Default: "15s", streamOnly: true, set: setKeepalive,
			Meaning: "TCP keep-alive: idle time and interval; 0 is off"},
		{Name: "user-timeout", Argument: "D", Default: "off", streamOnly: true, set: setUserTimeout,
			Meaning: "TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged"},
		{Name: MaxConnections, Argument: "N", Default: "from RLIMIT_NOFILE", streamOnly: true, set: setMaxConnections,
			Meaning: "at the limit new ones wait in the kernel's queue; 0 is off"},
		{Name: "max-connections-per-client", Argument: "N", Default: "off", set: setMaxPerClient,
			Meaning: "at the limit a client's next one is reset; the next flow of UDP is dropped"},
		{Name: "accept-rate", Argument: "N[/BURST]", Default: "off", streamOnly: true, set: setAcceptRate,
			Meaning: "connections a second from each peer, so many more at once; beyond it a peer is reset"},
	})
}

// MaxConnections is the setting that means another thing as a flag, a limit on
// all connections together, than as the key of a forward.
const MaxConnections = "max-connections"

// MaxFlows is likewise a limit on all flows together, or on those of one forward.
const MaxFlows = "udp-max-flows"

// inGroup puts settings into a group.
func inGroup(g Group, list []Setting) []Setting {
	for i := range list {
		list[i].Group = g
	}
	return list
}

// findSetting returns the setting of a name.
func findSetting(name string) (Setting, bool) {
	all := Settings()
	i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return Setting{}, false
	}
	return all[i], true
}

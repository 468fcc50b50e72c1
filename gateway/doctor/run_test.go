package doctor

import (
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

const (
	ssh    = "--forward :2222=127.0.0.1:22 --transparent on"
	remote = "--forward :2525=10.9.0.2:25 --transparent on"

	sshRule    = "ip rule add from 127.0.0.1/32 iif lo ipproto tcp sport 22 lookup 7700 pref 7700 protocol 100; " + sshErrors
	sshErrors  = "ip rule add from 127.0.0.1/32 iif lo ipproto icmp dport 768-783 lookup 7700 pref 7700 protocol 100"
	sshRoute   = "ip route replace local default dev lo table 7700"
	remoteRule = "ip rule add from 10.9.0.2/32 iif veth0 ipproto tcp sport 25 lookup 7700 pref 7700 protocol 100; " +
		"ip rule add from 10.9.0.2/32 iif veth0 ipproto icmp lookup 7700 pref 7700 protocol 100"
)

var (
	link   = returnpath.Reach{Place: returnpath.Link, Device: "veth0"}
	routed = returnpath.Reach{Place: returnpath.Routed, Device: "eth0", Router: netip.MustParseAddr("10.0.0.254")}
	own    = returnpath.Reach{Place: returnpath.Local, Device: "lo"}
	ours   = routing.Decision{Local: true, Table: 7700, Preference: 7700}
)

const (
	twoDNS    = "--forward udp://:5300=127.0.0.1:53,127.0.0.2:53 --transparent on"
	remoteDNS = "--forward udp://:5300=10.9.0.2:53 --transparent on"
)

// onlyFilter is [world.missing] of a host that lacks the packet filter's part.
func onlyFilter(p returnpath.Plan) returnpath.Plan { return returnpath.Plan{Filter: p.Filter} }

// reassemble is the command for the table of a plan that only reassembles.
var reassemble = returnpath.New([]returnpath.Backend{{Addr: netip.MustParsePrefix("10.9.0.2/32"),
	Ports: returnpath.Ports{Low: 53, High: 53}, UDP: true, Reach: link}}, nil, returnpath.Options{}).Filter.Command()

// Each row is a healthy host with one fault, and all findings that are not ok.
func TestRun(t *testing.T) {
	eperm := &transparent.OptionError{Option: "IP_TRANSPARENT", Err: unix.EPERM}
	for _, tt := range []struct {
		name  string
		flags string
		fault func(*world)
		want  []string // findings that are not ok
	}{
		{name: "nothing is wrong", flags: ssh},
		{name: "plain forwards need no return path", flags: "--forward :2222=127.0.0.1:22", fault: func(w *world) {
			w.optionErr, w.missing, w.client["127.0.0.1:22"] = eperm, allMissing, timedOut
			w.files["proc/sys/net/ipv4/conf/all/route_localnet"] = "1"
		}},

		// UDP.
		{name: "UDP: a server receives", flags: "--forward udp://:5300=127.0.0.1:53"},
		{name: "UDP: only the connected socket of a flow", flags: "--forward udp://:5300=127.0.0.1:55",
			want: []string{"backend_refused udp://127.0.0.1:55 fail"}},
		{name: "UDP: a server on another host cannot be tested", flags: "--forward udp://:5300=10.9.0.2:53",
			fault: func(w *world) { w.reach["10.9.0.2"] = link },
			want:  []string{"backend udp://10.9.0.2:53 skip"}},
		{name: "UDP: transparent, rules in force", flags: "--forward udp://:5300=127.0.0.1:53 --transparent on",
			fault: func(w *world) { w.decision = ours }},
		{name: "UDP: transparent, rules shadowed", flags: "--forward udp://:5300=127.0.0.1:53 --transparent on",
			fault: func(w *world) { w.decision = routing.Decision{} }, want: []string{"return_path udp://127.0.0.1:53 skip"}},
		{name: "UDP: transparent, rules missing", flags: "--forward udp://:5300=127.0.0.1:53 --transparent on",
			fault: func(w *world) { w.missing, w.decision = allMissing, routing.Decision{} },
			want: []string{"rules_missing udp://127.0.0.1:53 fail; " + sshRoute + "; " +
				strings.Replace(sshRule, "tcp sport 22", "udp sport 53", 1)}},
		// With two backends the gateway has to learn that one is down.
		{name: "UDP: two backends, everything in force", flags: twoDNS, fault: func(w *world) { w.decision = ours },
			want: []string{"backend_refused udp://127.0.0.2:53 warn"}},
		{name: "UDP: ICMP errors do not reach the gateway", flags: twoDNS, fault: func(w *world) {
			w.lookup = func(r routing.Reply) (routing.Decision, error) { return routing.Decision{Local: !r.ICMP}, nil }
			w.missing = func(p returnpath.Plan) returnpath.Plan {
				return returnpath.Plan{Rules: slices.DeleteFunc(slices.Clone(p.Rules), func(r returnpath.Rule) bool { return !r.IsICMP() })}
			}
		}, want: []string{"failover udp://127.0.0.1:53 warn; " + sshErrors,
			"backend_refused udp://127.0.0.2:53 warn",
			"failover udp://127.0.0.2:53 fail; " + strings.ReplaceAll(sshErrors, "127.0.0.1", "127.0.0.2")}},
		{name: "UDP: one backend needs no other", flags: "--forward udp://:5300=127.0.0.1:53 --transparent on", fault: func(w *world) {
			w.lookup = func(r routing.Reply) (routing.Decision, error) { return routing.Decision{Local: !r.ICMP}, nil }
		}},
		// Large replies of other hosts.
		{name: "UDP: fragments are reassembled", flags: remoteDNS, fault: func(w *world) { w.reach["10.9.0.2"], w.decision = link, ours },
			want: []string{"backend udp://10.9.0.2:53 skip"}},
		{name: "UDP: nothing reassembles fragments", flags: remoteDNS, fault: func(w *world) {
			w.reach["10.9.0.2"], w.decision, w.missing = link, ours, onlyFilter
		}, want: []string{"backend udp://10.9.0.2:53 skip", "fragments udp://10.9.0.2:53 warn; " + reassemble}},
		{name: "UDP: another table reassembles fragments", flags: remoteDNS, fault: func(w *world) {
			w.reach["10.9.0.2"], w.decision, w.missing = link, ours, onlyFilter
			w.ruleset = "table inet filter {\n\tchain input {\n\t\tct state established accept\n\t}\n}\n"
		}, want: []string{"backend udp://10.9.0.2:53 skip"}},
		{name: "UDP: a counter called octets reassembles nothing", flags: remoteDNS, fault: func(w *world) {
			w.reach["10.9.0.2"], w.decision, w.missing = link, ours, onlyFilter
			w.ruleset = "table inet filter {\n\tcounter ctx {\n\t}\n}\n"
		}, want: []string{"backend udp://10.9.0.2:53 skip", "fragments udp://10.9.0.2:53 warn; " + reassemble}},
		{name: "UDP: nft is not installed", flags: remoteDNS, fault: func(w *world) {
			w.reach["10.9.0.2"], w.decision, w.missingErr = link, ours, exec.ErrNotFound
		}, want: []string{"backend udp://10.9.0.2:53 skip", "fragments udp://10.9.0.2:53 warn; apt install nftables"}},
		{name: "UDP: the packet filter cannot be read", flags: remoteDNS, fault: func(w *world) {
			w.reach["10.9.0.2"], w.decision, w.missingErr = link, ours, unix.EPERM
		}, want: []string{"backend udp://10.9.0.2:53 skip", "fragments udp://10.9.0.2:53 skip"}},
		{name: "UDP: bound to 0.0.0.0 (peers.md 4.4)", flags: "--forward udp://:5300=127.0.0.1:54 --transparent on",
			fault: func(w *world) { w.decision = ours }, want: []string{"backend_wildcard udp://127.0.0.1:54 warn"}},
		{name: "UDP: bound to 0.0.0.0, not transparent", flags: "--forward udp://:5300=127.0.0.1:54"},
		{name: "UDP: the gateway has the listener", flags: "--forward udp://:2053=127.0.0.1:53",
			fault: func(w *world) { w.bind["udp [::]:2053"] = unix.EADDRINUSE }},
		{name: "UDP: another program has the listener", flags: "--forward udp://0.0.0.0:54=127.0.0.1:53",
			fault: func(w *world) { w.bind["udp 0.0.0.0:54"] = unix.EADDRINUSE },
			want:  []string{"listener_taken udp://0.0.0.0:54 fail"}},
		{name: "UDP: the port is in use by TCP only", flags: "--forward udp://:22=127.0.0.1:53",
			fault: func(w *world) { w.bind["[::]:22"] = unix.EADDRINUSE }},

		// The return path.
		{name: "rules missing (the most frequent mistake)", flags: ssh,
			fault: func(w *world) { w.missing, w.client["127.0.0.1:22"] = allMissing, timedOut },
			want:  []string{"rules_missing 127.0.0.1:22 fail; " + sshRoute + "; " + sshRule}},
		{name: "rules missing, but others deliver replies", flags: ssh, fault: func(w *world) { w.missing = allMissing }},
		{name: "the table is empty", flags: ssh, fault: func(w *world) {
			w.missing, w.client["127.0.0.1:22"] = func(p returnpath.Plan) returnpath.Plan { p.Rules = nil; return p }, timedOut
		}, want: []string{"table_empty 127.0.0.1:22 fail; " + sshRoute}},
		{name: "an earlier rule", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"] = timedOut
			w.decision = routing.Decision{Table: 254, Device: "eth0", Preference: 100, Rule: "100: from 127.0.0.0/8 lookup main"}
		}, want: []string{"rules_shadowed 127.0.0.1:22 fail; " + strings.ReplaceAll(sshRule, "pref 7700", "pref 99")}},
		{name: "an earlier rule prohibits", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"], w.decisionErr = timedOut, unix.EACCES
			w.decision = routing.Decision{Preference: 100, Rule: "100: from 127.0.0.0/8 forbids it"}
		}, want: []string{"rules_shadowed 127.0.0.1:22 fail; " + strings.ReplaceAll(sshRule, "pref 7700", "pref 99")}},
		{name: "the rule for table local", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"] = timedOut
			w.decision = routing.Decision{Local: true, Table: 255, Preference: 0, Rule: "0: from all lookup local"}
		}, want: []string{"rules_shadowed 127.0.0.1:22 fail"}},
		{name: "all in force: a firewall (peers.md 4.4)", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"], w.decision = timedOut, ours
			w.ruleset = "table inet f {\n\tct state invalid drop\n\ttcp dport 22 accept\n\tfib saddr . iif type local drop\n}"
		}, want: []string{"replies_lost 127.0.0.1:22 fail", "firewall 127.0.0.1:22 warn"}},
		{name: "conntrack is full, which explains lost replies", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"], w.decision = timedOut, ours
			w.files["proc/sys/net/netfilter/nf_conntrack_count"] = "1000"
		}, want: []string{"conntrack conntrack fail; sysctl -w net.netfilter.nf_conntrack_max=2000"}},
		{name: "conntrack is nearly full", flags: ssh,
			fault: func(w *world) { w.files["proc/sys/net/netfilter/nf_conntrack_count"] = "800" },
			want:  []string{"conntrack conntrack warn; sysctl -w net.netfilter.nf_conntrack_max=2000"}},
		{name: "a client is refused", flags: ssh, fault: func(w *world) { w.client["127.0.0.1:22"] = refusal() },
			want: []string{"return_path 127.0.0.1:22 warn"}},
		{name: "a container without rules", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.missing, w.client["10.9.0.2:25"] = link, allMissing, timedOut
		}, want: []string{"rules_missing 10.9.0.2:25 fail; " + sshRoute + "; " + remoteRule}},
		{name: "a container whose replies take another route", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.client["10.9.0.2:25"], w.decision = link, timedOut, ours
		}, want: []string{"replies_lost 10.9.0.2:25 fail"}},
		{name: "rp_filter on this host", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.client["10.9.0.2:25"], w.decisionErr = link, timedOut, routing.ErrReversePath
		}, want: []string{"reverse_path 10.9.0.2:25 fail; sysctl -w net.ipv4.conf.veth0.rp_filter=2"}},
		{name: "behind a router", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.client["10.9.0.2:25"], w.decision = routed, timedOut, ours
		}, want: []string{"behind_router 10.9.0.2:25 fail"}},
		{name: "behind a router that routes replies here", flags: remote,
			fault: func(w *world) { w.reach["10.9.0.2"] = routed },
			want:  []string{"route_plan 10.9.0.2:25 warn"}},
		{name: "no default route, backend on an address of this host", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.client["10.9.0.2:25"], w.decisionErr = own, timedOut, unix.ENETUNREACH
		}, want: []string{"default_route 10.9.0.2:25 fail"}},
		{name: "rules cannot be read", flags: ssh, fault: func(w *world) {
			w.client["127.0.0.1:22"], w.missingErr = timedOut, unix.EAFNOSUPPORT
		}, want: []string{"replies_lost 127.0.0.1:22 fail; " + sshRoute + "; " + sshRule}},
		{name: "destinations of headers", flags: "--forward :25=header --transparent on --allow-destination 10.9.0.0/24",
			fault: func(w *world) {
				w.reach["10.9.0.0"] = link
				w.missing = func(p returnpath.Plan) returnpath.Plan { p.Filter = nil; return p }
			}, want: []string{"rules_missing 10.9.0.0/24 warn; " + sshRoute + "; ip rule add iif veth0 fwmark 7700 lookup 7700 pref 7700 protocol 100"}},

		{name: "a masquerade rule", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.sent["10.9.0.2:25"] = link, ap("10.9.0.1:40000")
		}, want: []string{"source_rewritten 10.9.0.2:25 fail; nft 'table inet unproxy_source { chain postrouting " +
			"{ type nat hook postrouting priority -150; meta skuid 0-4294967294 fib saddr type != local " +
			"ip daddr 10.9.0.2 tcp dport 25 snat ip to ip saddr; }; }'"}},
		{name: "packets cannot be seen", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.sent["10.9.0.2:25"] = link, netip.AddrPort{}
		}},

		// Backends.
		{name: "no server: tested with a listener in its place", flags: ssh,
			fault: func(w *world) { w.plain["127.0.0.1:22"] = refusal() },
			want:  []string{"backend_refused 127.0.0.1:22 fail"}},
		{name: "no server, and listening fails", flags: ssh, fault: func(w *world) {
			w.plain["127.0.0.1:22"], w.listenErr = refusal(), &netErr{syscall.EACCES}
		}, want: []string{"backend_refused 127.0.0.1:22 fail", "return_path 127.0.0.1:22 skip"}},
		{name: "no server, listening fails, other rules deliver replies", flags: ssh, fault: func(w *world) {
			w.plain["127.0.0.1:22"], w.listenErr, w.missing = refusal(), &netErr{syscall.EACCES}, allMissing
		}, want: []string{"backend_refused 127.0.0.1:22 fail", "return_path 127.0.0.1:22 skip"}},
		{name: "no server, listening fails, rules missing", flags: ssh, fault: func(w *world) {
			w.plain["127.0.0.1:22"], w.listenErr, w.missing = refusal(), &netErr{syscall.EACCES}, allMissing
			w.decisionErr = unix.ENETUNREACH
		}, want: []string{"backend_refused 127.0.0.1:22 fail",
			"rules_missing 127.0.0.1:22 fail; " + sshRoute + "; " + sshRule}},
		{name: "a remote backend is down", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.plain["10.9.0.2:25"] = link, refusal()
		}, want: []string{"backend_refused 10.9.0.2:25 fail", "return_path 10.9.0.2:25 skip"}},
		{name: "a remote backend is silent", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.plain["10.9.0.2:25"] = link, timedOut
		}, want: []string{"backend_silent 10.9.0.2:25 fail", "return_path 10.9.0.2:25 skip"}},
		{name: "no route to it: consequences omitted", flags: remote, fault: func(w *world) {
			w.reach["10.9.0.2"], w.plain["10.9.0.2:25"] = returnpath.Reach{}, &netErr{syscall.ENETUNREACH}
		}, want: []string{"backend_unreachable 10.9.0.2:25 fail"}},
		{name: "another backend of the family answers", flags: "--forward :2525=127.0.0.1:25,127.0.0.2:25 --transparent on",
			fault: func(w *world) {
				w.plain["127.0.0.1:25"], w.listenErr = refusal(), syscall.EACCES
			}, want: []string{"backend_refused 127.0.0.1:25 warn", "return_path 127.0.0.1:25 skip"}},
		{name: "a backend of the other family is no alternative",
			flags: "--forward :2525=127.0.0.1:25,[::1]:25 --transparent on", fault: func(w *world) {
				w.plain["[::1]:25"], w.listenErr = refusal(), syscall.EACCES
			}, want: []string{"backend_refused [::1]:25 fail", "return_path [::1]:25 skip"}},
		{name: "it is if clients are mapped", flags: "--forward :2525=127.0.0.1:25,[::1]:25 --transparent on --family-mismatch map",
			fault: func(w *world) {
				w.plain["[::1]:25"], w.listenErr = refusal(), syscall.EACCES
			}, want: []string{"backend_refused [::1]:25 warn", "return_path [::1]:25 skip"}},
		{name: "it is if connections are not transparent", flags: "--forward :2525=127.0.0.1:25,[::1]:25",
			fault: func(w *world) { w.plain["[::1]:25"] = refusal() },
			want:  []string{"backend_refused [::1]:25 warn"}},
		{name: "a name has no address", flags: "--forward :25=mail.test:25 --transparent on",
			want: []string{"backend_name mail.test fail"}},
		{name: "a name has no address, and another backend answers", flags: "--forward :2525=mail.test:25,127.0.0.1:25",
			want: []string{"backend_name mail.test warn"}},
		{name: "a name's addresses, one of them down", flags: "--forward :25=mail.test:25", fault: func(w *world) {
			w.names["mail.test"] = []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
			w.plain["127.0.0.2:25"] = timedOut
		}, want: []string{"backend_silent mail.test:25 (127.0.0.2) warn"}},
		{name: "IPv6 is disabled: consequences omitted", flags: "--forward :2222=[::1]:22,127.0.0.1:22 --transparent on",
			fault: func(w *world) {
				w.files["proc/sys/net/ipv6/conf/lo/disable_ipv6"] = "1"
				w.plain["[::1]:22"], w.missing = &netErr{syscall.ENETUNREACH}, allMissing
			}, want: []string{"ipv6 [::1]:22 fail; sysctl -w net.ipv6.conf.lo.disable_ipv6=0"}},
		{name: "a range, such as that of passive FTP, without servers", flags: "--forward :2100-2199=10.9.0.2:2100-2199",
			fault: func(w *world) { w.plain["10.9.0.2:2100"], w.plain["10.9.0.2:2199"] = refusal(), refusal() },
			want:  []string{"backend 10.9.0.2:2100 skip", "backend 10.9.0.2:2199 skip"}},
		{name: "a range that has servers all the time", flags: "--forward :2100-2199=10.9.0.2:2100-2199?on-demand=off",
			fault: func(w *world) { w.plain["10.9.0.2:2199"] = refusal() },
			want:  []string{"backend_refused 10.9.0.2:2199 fail"}},
		{name: "a range on a silent host", flags: "--forward :2100-2199=10.9.0.2:2100-2199",
			fault: func(w *world) { w.plain["10.9.0.2:2199"] = timedOut },
			want:  []string{"backend_silent 10.9.0.2:2199 fail"}},
		{name: "on demand", flags: "--forward :25=10.9.0.2:25?on-demand --forward udp://:26=127.0.0.1:99?on-demand=on --forward :27=unix:/run/x?on-demand",
			fault: func(w *world) { w.plain["10.9.0.2:25"] = refusal() },
			want:  []string{"backend 10.9.0.2:25 skip", "backend udp://127.0.0.1:99 skip", "backend unix:/run/x skip"}},
		{name: "one forward of two expects it", flags: "--forward :25=10.9.0.2:25?on-demand --forward :26=10.9.0.2:25",
			fault: func(w *world) { w.plain["10.9.0.2:25"] = refusal() },
			want:  []string{"backend_refused 10.9.0.2:25 fail"}},
		{name: "on demand, transparent: tested with a listener in its place", flags: "--forward :2121=127.0.0.1:2100 --on-demand on --transparent on",
			fault: func(w *world) { w.plain["127.0.0.1:2100"] = refusal() },
			want:  []string{"backend 127.0.0.1:2100 skip"}},
		{name: "on demand, transparent, rules missing", flags: "--forward :2121=127.0.0.1:22 --on-demand on --transparent on",
			fault: func(w *world) {
				w.plain["127.0.0.1:22"], w.client["127.0.0.1:22"], w.missing = refusal(), timedOut, allMissing
			},
			want: []string{"backend 127.0.0.1:22 skip", "rules_missing 127.0.0.1:22 fail; " + sshRoute + "; " + sshRule}},
		{name: "a unix socket without a server", flags: "--forward :25=unix:/run/db.sock",
			want: []string{"backend_refused unix:/run/db.sock fail"}},
		{name: "a unix socket with a server", flags: "--forward :25=unix:/run/db.sock", fault: func(w *world) {
			w.files["proc/self/net/unix"] = "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 00010000 0001 01 99 /run/db.sock\n"
		}},

		// The process.
		{name: "capability missing: no finding about the test", flags: ssh, fault: func(w *world) {
			w.optionErr = eperm
			w.files["proc/self/status"] = status(none, none, allCapabilities, "0")
		}, want: []string{"net_raw capabilities fail; setcap cap_net_raw+ep /usr/bin/unproxy"}},
		{name: "capability and rules missing", flags: ssh, fault: func(w *world) {
			w.optionErr, w.missing, w.decisionErr = eperm, allMissing, unix.ENETUNREACH
			w.files["proc/self/status"] = status(none, none, allCapabilities, "0")
		}, want: []string{"net_raw capabilities fail; setcap cap_net_raw+ep /usr/bin/unproxy",
			"rules_missing 127.0.0.1:22 fail; " + sshRoute + "; " + sshRule}},
		{name: "a tproxy listener needs it, too", flags: "--forward :2222=127.0.0.1:22?tproxy=on&redirect=203.0.113.0/24:1000",
			fault: func(w *world) {
				w.optionErr = eperm
				w.files["proc/self/status"] = status(none, none, allCapabilities, "0")
			}, want: []string{"net_raw capabilities fail; setcap cap_net_raw+ep /usr/bin/unproxy"}},
		{name: "redirect rules missing", flags: "--forward :2222=127.0.0.1:22?tproxy=on&redirect=203.0.113.0/24:1000",
			fault: func(w *world) {
				w.missing = func(p returnpath.Plan) returnpath.Plan { p.Filter, p.Routes = nil, nil; return p }
			}, want: []string{"redirect :2222 warn; ip rule add iif lo fwmark 7701 lookup main pref 7700 protocol 100; " +
				"ip rule add fwmark 7701 lookup 7700 pref 7701 protocol 100"}},
		{name: "redirect rules cannot be read", flags: "--forward :2222=127.0.0.1:22?tproxy=on&redirect=203.0.113.0/24:1000",
			fault: func(w *world) {
				w.missingErr = syscall.EPERM
			}, want: []string{"redirect :2222 skip"}},
		{name: "a mark needs it, too", flags: "--forward :2222=127.0.0.1:22 --mark 7", fault: func(w *world) {
			w.optionErr = &transparent.OptionError{Option: "SO_MARK", Err: unix.EPERM}
			w.files["proc/self/status"] = status(none, none, allCapabilities, "1")
			w.plain["127.0.0.1:22"] = &netErr{syscall.EPERM}
		}, want: []string{"net_raw capabilities fail"}},
		{name: "the kernel does not support the option", flags: ssh, fault: func(w *world) {
			w.optionErr = &transparent.OptionError{Option: "IP_TRANSPARENT", Err: unix.ENOPROTOOPT}
		}, want: []string{"socket_options socket options fail"}},
		{name: "ports cannot be kept", flags: ssh + " --source-port keep", fault: func(w *world) {
			w.files["proc/self/status"] = status(onlyNetRaw, onlyNetRaw, allCapabilities, "0")
		}, want: []string{"client_ports client ports warn; setcap cap_net_raw,cap_net_bind_service+ep /usr/bin/unproxy"}},
		{name: "ports need not be kept", flags: ssh, fault: func(w *world) {
			w.files["proc/self/status"] = status(onlyNetRaw, onlyNetRaw, onlyNetRaw, "0")
		}},
		{name: "all ports are unprivileged", flags: ssh + " --source-port keep", fault: func(w *world) {
			w.files["proc/self/status"] = status(onlyNetRaw, onlyNetRaw, onlyNetRaw, "0")
			w.files["proc/sys/net/ipv4/ip_unprivileged_port_start"] = "0"
		}},
		{name: "a short queue", flags: ssh, fault: func(w *world) { w.files["proc/sys/net/core/somaxconn"] = "128" },
			want: []string{"backlog listen queue warn; sysctl -w net.core.somaxconn=4096"}},
		{name: "ProcSubset=pid hides the queue", flags: ssh,
			fault: func(w *world) { delete(w.files, "proc/sys/net/core/somaxconn") },
			want:  []string{"backlog listen queue skip"}},
		{name: "more connections than descriptors", flags: ssh + " --max-connections 50000",
			want: []string{"descriptors open files warn"}},
		{name: "a wide trust rule", flags: ssh + " --trust 0.0.0.0/1", want: []string{"trust trust warn"}},
		{name: "a shared preset", flags: ssh + " --trust cloudflare", want: []string{"trust trust warn"}},
		{name: "a setting without effect", flags: "--forward :2222=127.0.0.1:22 --source-port keep",
			want: []string{"configuration settings warn"}},

		// The host.
		{name: "127/8 is reachable from the network", flags: ssh, fault: func(w *world) {
			w.files["proc/sys/net/ipv4/conf/all/route_localnet"] = "1"
			w.files["proc/sys/net/ipv4/conf/default/route_localnet"] = "1"
			w.files["proc/sys/net/ipv4/conf/eth0/route_localnet"] = "1"
		}, want: []string{"route_localnet route_localnet warn; sysctl -w net.ipv4.conf.all.route_localnet=0; " +
			"sysctl -w net.ipv4.conf.eth0.route_localnet=0"}},
		{name: "foreign addresses may be bound", flags: ssh,
			fault: func(w *world) { w.files["proc/sys/net/ipv4/ip_nonlocal_bind"] = "1" },
			want:  []string{"nonlocal_bind ip_nonlocal_bind warn; sysctl -w net.ipv4.ip_nonlocal_bind=0"}},

		// Listeners.
		{name: "another program has the listener", flags: "--forward 127.0.0.1:22=127.0.0.2:22",
			fault: func(w *world) { w.bind["127.0.0.1:22"] = syscall.EADDRINUSE },
			want:  []string{"listener_taken 127.0.0.1:22 fail"}},
		{name: "the gateway has the listener", flags: "--forward :2222=127.0.0.1:22",
			fault: func(w *world) { w.bind["[::]:2222"] = syscall.EADDRINUSE }},
		{name: "the owner cannot be seen", flags: "--forward :2222=127.0.0.1:22", fault: func(w *world) {
			w.bind["[::]:2222"] = syscall.EADDRINUSE
			delete(w.links, "proc/18/fd/3")
		}, want: []string{"listener_taken :2222 warn"}},
		{name: "a low port", flags: "--forward :443=127.0.0.1:22", fault: func(w *world) {
			w.bind["[::]:443"] = syscall.EACCES
			w.files["proc/self/status"] = status(none, none, onlyNetRaw, "1")
		}, want: []string{"listener_port :443 fail"}},
		{name: "an address of another host", flags: "--forward 192.0.2.1:2222=127.0.0.1:22",
			fault: func(w *world) { w.bind["192.0.2.1:2222"] = syscall.EADDRNOTAVAIL },
			want:  []string{"listener_address 192.0.2.1:2222 fail"}},
		{name: "a host without IPv6", flags: "--forward :2222=127.0.0.1:22",
			fault: func(w *world) { w.bind["[::]:2222"] = syscall.EAFNOSUPPORT }},
		{name: "half a range is in use", flags: "--forward 127.0.0.1:3000-3003=127.0.0.2:4000-4003", fault: func(w *world) {
			for _, port := range []string{"3001", "3002"} {
				w.bind["127.0.0.1:"+port] = syscall.EADDRINUSE
			}
		}, want: []string{"listener_taken 127.0.0.1:3001 to 127.0.0.1:3002 warn"}},
		{name: "a connection has the listener's port", flags: "--forward 127.0.0.1:45004=127.0.0.1:22", fault: func(w *world) {
			w.bind["127.0.0.1:45004"] = syscall.EADDRINUSE
			w.files["proc/self/net/tcp"] += "   3: 0100007F:AFCC 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 4 30 10 -1\n"
			w.files["proc/sys/net/ipv4/ip_local_port_range"] = "45000\t45020\n"
			w.files["proc/sys/net/ipv4/ip_local_reserved_ports"] = "8080\n"
		}, want: []string{
			"ephemeral_port ports warn; sysctl -w net.ipv4.ip_local_reserved_ports=8080,45004",
			"listener_taken 127.0.0.1:45004 fail; sysctl -w net.ipv4.ip_local_reserved_ports=8080,45004"}},
		{name: "a connection in TIME_WAIT has the listener's port", flags: "--forward :45004=127.0.0.1:22", fault: func(w *world) {
			w.bind["[::]:45004"] = syscall.EADDRINUSE
			w.files["proc/self/net/tcp"] += "   3: 0100007F:AFCC 0100007F:0016 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n"
		}, want: []string{"listener_taken :45004 fail"}},
		{name: "a UDP flow has the listener's port", flags: "--forward udp://127.0.0.1:55=127.0.0.1:53",
			fault: func(w *world) { w.bind["udp 127.0.0.1:55"] = syscall.EADDRINUSE },
			want:  []string{"listener_taken udp://127.0.0.1:55 fail"}},
		{name: "connections of another address do not have the port", flags: "--forward 10.9.0.1:22=127.0.0.1:22",
			fault: func(w *world) { w.bind["10.9.0.1:22"] = syscall.EADDRINUSE },
			want:  []string{"listener_taken 10.9.0.1:22 warn"}},

		// Ports that the kernel may assign to outgoing connections.
		{name: "listeners and local backends in the ephemeral range",
			flags: "--forward :45010-45012=127.0.0.1:45003-45005 --forward udp://10.9.0.1:44999=10.9.0.1:45020 --forward :2222=here:45019",
			fault: func(w *world) {
				w.names["here"] = []netip.Addr{ap("[::1]:0").Addr()}
				w.files["proc/self/net/udp"] += "   4: 0100090A:AFDC 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n"
				w.files["proc/sys/net/ipv4/ip_local_port_range"] = "45000\t45020\n"
				w.files["proc/sys/net/ipv4/ip_local_reserved_ports"] = "8080\n"
			}, want: []string{"ephemeral_port ports warn; sysctl -w net.ipv4.ip_local_reserved_ports=8080,45003-45005,45010-45012,45019-45020",
				"backend udp://10.9.0.1:45020 skip"}},
		{name: "backends elsewhere and reserved ports do not matter", flags: "--forward :45010=10.9.0.2:45003",
			fault: func(w *world) {
				w.files["proc/sys/net/ipv4/ip_local_port_range"] = "45000\t45020\n"
				w.files["proc/sys/net/ipv4/ip_local_reserved_ports"] = "45010\n"
			}},
		{name: "source addresses of this host",
			flags: "--forward :2222=127.0.0.1:22 --source-address 10.9.0.1"},
		{name: "source addresses of no host", flags: "--forward :2222=127.0.0.1:22 --source-address 10.77.0.7 --source-address 10.77.0.0/30",
			want: []string{"source_address 10.77.0.7 fail; ip address add 10.77.0.7/32 dev lo",
				"source_address 10.77.0.0/30 fail; ip route add local 10.77.0.0/30 dev lo"}},
		{name: "a directory is missing", flags: "--forward unix:/run/other/in.sock=127.0.0.1:22",
			want: []string{"listener_address unix:/run/other/in.sock fail; mkdir -p /run/other"}},
		{name: "a directory exists", flags: "--forward unix:/run/unproxy/in.sock=127.0.0.1:22"},
		{name: "a file is in the way", flags: "--forward unix:/run/unproxy/in.sock=127.0.0.1:22",
			fault: func(w *world) { w.files["run/unproxy/in.sock"] = "" },
			want:  []string{"listener_address unix:/run/unproxy/in.sock fail"}},
		{name: "the gateway has its unix socket open", flags: "--forward unix:/run/unproxy/in.sock=127.0.0.1:22",
			fault: func(w *world) {
				w.files["proc/self/net/unix"] = "0: 2 0 00010000 0001 01 4713 /run/unproxy/in.sock\n1: 2 0 00000000 0001 03 5000 /run/unproxy/in.sock\n"
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := healthy()
			w.decision = ours
			if tt.fault != nil {
				tt.fault(w)
			}
			r := w.run(t, tt.flags)
			got := r.lines(false)
			// The doctor reports what package config warns of. It also resolves names.
			c, _ := configFor(t, tt.flags)
			if exposed := len(c.LocalhostWarnings()) > 0 || len(w.names) > 0; exposed != slices.Contains(got, exposedLine) {
				t.Errorf("servers on this host see clients as localhost: %v; findings %q", exposed, got)
			}
			got = slices.DeleteFunc(got, func(line string) bool { return line == exposedLine })
			if !slices.Equal(got, tt.want) {
				t.Errorf("findings\n%s\nwant\n%s\nall: %+v", strings.Join(got, "\n"), strings.Join(tt.want, "\n"), r.Findings)
			}
			for _, f := range r.Findings {
				if f.Component == "" || f.Detail == "" || f.Target == "" || strings.Contains(f.Detail, "%!") {
					t.Errorf("incomplete finding: %+v", f)
				}
				if f.Status == Fail && len(f.Hint) == 0 && f.Code != BackendUnreachable {
					t.Errorf("no hint: %+v", f)
				}
			}
		})
	}
}

// The doctor says if it cannot see packets, and quotes the rules that may rewrite the
// source: not those of IPv6 for an IPv4 backend, and not the exemptions that it recommends.
func TestRewrittenSource(t *testing.T) {
	const ruleset = "table ip6 nat {\n\tchain postrouting {\n\t\toifname \"eth0\" masquerade\n\t}\n}\n" +
		"table inet unproxy_source {\n\tchain postrouting {\n\t\tip daddr 10.9.0.2 tcp dport 25 snat ip to ip saddr\n\t}\n}\n" +
		"table ip nat { # handle 3\n\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n" +
		"\t\toifname \"eth0\" masquerade\n\t\tip daddr 10.0.0.1 accept\n\t}\n\tchain x {\n\t\tcounter packets 3 bytes 180 xt target \"MASQUERADE\"\n" +
		"\t\tsnat to 10.0.0.7\n\t\tsnat to 10.0.0.8\n"
	for _, tt := range []struct {
		name, ruleset string
		rulesetErr    error
		sightErr      error
		sent          netip.AddrPort
		detail        string
		hints         []string // the first ones
	}{
		{"not permitted", "", nil, os.NewSyscallError("socket AF_PACKET", syscall.EPERM), netip.AddrPort{},
			"not permitted here (socket AF_PACKET: operation not permitted); run unproxy doctor as root", nil},
		{"not seen", "", nil, nil, netip.AddrPort{}, "too many packets", nil},
		{"rewritten", ruleset, nil, nil, ap("10.0.0.1:1"), "the backend sees 10.0.0.1:", []string{
			`# a rule of chain postrouting: oifname "eth0" masquerade`,
			`# a rule of chain x: counter packets 3 bytes 180 xt target "MASQUERADE"`, "# a rule of chain x: snat to 10.0.0.7",
			"# exempt the connections"}},
		{"no nft", "", fs.ErrNotExist, nil, ap("10.0.0.1:1"), "the backend sees 10.0.0.1:", []string{"# exempt the connections"}},
		{"an ordinary user", "", fs.ErrPermission, nil, ap("10.0.0.1:1"), "the backend sees 10.0.0.1:",
			[]string{"# only root can see which rule does", "# exempt the connections"}},
	} {
		w := healthy()
		w.reach["10.9.0.2"], w.sent["10.9.0.2:25"], w.ruleset, w.rulesetErr = link, tt.sent, tt.ruleset, tt.rulesetErr
		w.sightErr = tt.sightErr
		all := w.run(t, remote).Findings
		f := all[len(all)-1]
		ok := strings.Contains(f.Detail, tt.detail) && len(f.Hint) >= len(tt.hints)
		for i := 0; ok && i < len(tt.hints); i++ {
			ok = strings.HasPrefix(f.Hint[i], tt.hints[i])
		}
		if !ok {
			t.Errorf("%s: %+v, want %q and %q", tt.name, f, tt.detail, tt.hints)
		}
	}
}

// exposedLine is the finding about servers that see every client as localhost.
const exposedLine = "localhost plain mode warn"

// All plain forwards to loopback are one finding. It names the setting of each
// well-known server, also for the ports of a range and for names.
func TestServersThatSeeLocalhost(t *testing.T) {
	for _, tt := range []struct {
		name, flags string
		want        []string // the detail, and the hints after the first; nil: no finding
	}{
		{"transparent", "--forward :2525=127.0.0.1:25 --transparent on", nil},
		{"another host", "--forward :25=10.9.0.2:25", nil},
		{"a unix socket", "--forward :25=unix:/run/smtp.sock", nil},
		{"a name of another host", "--forward :25=mail.test:25", nil},
		{"SMTP", "--forward :2525=127.0.0.1:25", []string{"127.0.0.1:25", "# port 25: Postfix: take 127.0.0.0/8"}},
		{"IPv6", "--forward :2525=[::1]:587", []string{"[::1]:587", "# port 587: Postfix"}},
		{"all of 127/8", "--forward :1=127.8.9.10:6379", []string{"127.8.9.10:6379", "# port 6379: Redis, Valkey: set a password"}},
		{"a name", "--forward :1=proxy.test:3128", []string{"127.0.0.1:3128", "# port 3128: squid: http_access deny localhost"}},
		{"the second backend", "--forward :1=10.9.0.2:5432,127.0.0.1:5432",
			[]string{"127.0.0.1:5432", "# port 5432: PostgreSQL: in pg_hba.conf"}},
		{"the middle of a range", "--forward :1000-1010=127.0.0.1:3300-3310", []string{"127.0.0.1:3300", "# port 3306: MySQL"}},
		{"a range with several", "--forward :1-5500=127.0.0.1:1000-6499",
			[]string{"127.0.0.1:1000", "# port 3128", "# port 3306", "# port 5432", "# port 5672", "# port 6379"}},
		{"UDP", "--forward udp://:1=127.0.0.1:11211", []string{"udp://127.0.0.1:11211", "# port 11211: memcached"}},
		{"the UDP port of a TCP server", "--forward udp://:1=127.0.0.1:6379", []string{"udp://127.0.0.1:6379", "# grant nothing"}},
		{"the TCP port of a UDP server", "--forward :1=127.0.0.1:161", []string{"127.0.0.1:161", "# grant nothing"}},
		{"an unknown server", "--forward :1=127.0.0.1:4242", []string{"127.0.0.1:4242", "# grant nothing to 127.0.0.1 and ::1"}},
		{"clients of the other family", "--forward :1=127.0.0.1:53 --transparent on --family-mismatch plain",
			[]string{"127.0.0.1:53", "# port 53: BIND"}},
		{"clients of the other family, mapped", "--forward :1=127.0.0.1:53 --transparent on --family-mismatch map", nil},
		{"many", "--forward :1=127.0.0.1:41 --forward :2=127.0.0.1:42 --forward :3=127.0.0.1:43 --forward :4=127.0.0.1:44 " +
			"--forward :5=127.0.0.1:45 --forward :6=127.0.0.1:46 --forward :7=127.0.0.1:22",
			[]string{"127.0.0.1:41, 127.0.0.1:42, 127.0.0.1:43, 127.0.0.1:44, 127.0.0.1:45 and 2 more", "# port 22: sshd"}},
	} {
		w := healthy()
		w.names["mail.test"] = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
		w.names["proxy.test"] = []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1")}
		all := w.run(t, tt.flags).Findings
		all = slices.DeleteFunc(all, func(f Finding) bool { return f.Code != Localhost })
		if len(all) != min(1, len(tt.want)) {
			t.Errorf("%s: %d findings: %+v", tt.name, len(all), all)
			continue
		}
		if len(all) == 0 {
			continue
		}
		f := all[0]
		ok := len(f.Hint) == len(tt.want) && strings.HasPrefix(f.Detail, "clients are localhost to "+tt.want[0]+", ")
		for i := 1; ok && i < len(tt.want); i++ {
			ok = strings.HasPrefix(f.Hint[i], tt.want[i])
		}
		if !ok || f.Status != Warn {
			t.Errorf("%s: %+v; want %q", tt.name, f, tt.want)
		}
	}
}

// If a backend refuses connections and the gateway itself listens on the same port of
// another address, the finding does not propose that listener: forwarding to it would
// be a loop. The control is a listener of another program.
func TestOwnListenerIsNoServer(t *testing.T) {
	for _, tt := range []struct {
		name, flags, backend string
		udp                  bool
		sockets              string // lines of the table
		want                 string // after "refuses connections"
	}{
		{"another program", "--forward :2222=127.0.0.1:7001", "127.0.0.1:7001", false,
			"0: 0500000A:1B59 00000000:0000 0A 0 0 0 0 0 4711", "; a program listens on 10.0.0.5:7001"},
		{"the configuration's, whose owner cannot be seen", "--forward 10.0.0.5:7001=127.0.0.1:7001", "127.0.0.1:7001", false,
			"0: 0500000A:1B59 00000000:0000 0A 0 0 0 0 0 1", ""},
		{"the gateway's, of another configuration", "--forward :2222=127.0.0.1:7001", "127.0.0.1:7001", false,
			"0: 0500000A:1B59 00000000:0000 0A 0 0 0 0 0 4712", ""},
		{"both", "--forward 10.0.0.5:7001=127.0.0.1:7001", "127.0.0.1:7001", false,
			"0: 0500000A:1B59 00000000:0000 0A 0 0 0 0 0 1\n1: 0600000A:1B59 00000000:0000 0A 0 0 0 0 0 4711",
			"; a program listens on 10.0.0.6:7001"},
		{"UDP, the configuration's", "--forward udp://10.0.0.5:7001=127.0.0.1:7001", "127.0.0.1:7001", true,
			"0: 0500000A:1B59 00000000:0000 07 0 0 0 0 0 1", ""},
		{"UDP, but the listener is TCP", "--forward 10.0.0.5:7001=127.0.0.2:1 --forward udp://:1=127.0.0.1:7001", "127.0.0.1:7001", true,
			"0: 0500000A:1B59 00000000:0000 07 0 0 0 0 0 1", "; a program listens on 10.0.0.5:7001"},
	} {
		w := healthy()
		w.plain[tt.backend] = refusal()
		table := "proc/self/net/tcp"
		if tt.udp {
			table = "proc/self/net/udp"
		}
		w.files[table] = tt.sockets + "\n"
		i := slices.IndexFunc(w.run(t, tt.flags).Findings, func(f Finding) bool { return f.Code == BackendRefused })
		if i < 0 {
			t.Errorf("%s: no finding", tt.name)
			continue
		}
		_, rest, _ := strings.Cut(w.run(t, tt.flags).Findings[i].Detail, ";")
		if strings.TrimSpace(rest) != strings.TrimPrefix(tt.want, "; ") {
			t.Errorf("%s: %q, want %q", tt.name, rest, tt.want)
		}
	}
}

// Without a route to a backend there are no rules, so no finding may report them in
// force.
// The control is the same backend with a route.
func TestNoRulesWithoutRoute(t *testing.T) {
	const inForce = "the rules for it are in force"
	for _, flags := range []string{
		"--forward udp://:5300=10.9.0.2:53 --transparent on",
		"--forward :2525=10.9.0.2:25 --transparent on",
		"--forward :25=header --transparent on --allow-destination 10.9.0.2",
		"--forward :25=header --transparent on --allow-destination 10.9.0.2/31",
	} {
		for _, r := range []returnpath.Reach{{}, link} {
			w := healthy()
			w.reach["10.9.0.2"], w.plain["10.9.0.2:25"] = r, timedOut
			w.decisionErr = unix.ENETUNREACH
			report := w.run(t, flags)
			found := slices.ContainsFunc(report.Findings, func(f Finding) bool { return strings.Contains(f.Detail, inForce) })
			if found != (r == link) {
				t.Errorf("%s, backend %s: rules in force: %v; %+v", flags, r.Place, found, report.Findings)
			}
		}
	}
}

// The reason why a capability is missing, and the hint (capabilities(7)).
func TestMissingCapability(t *testing.T) {
	for _, tt := range []struct {
		name, status string
		file         uint64
		why, hint    string
	}{
		{"an unprivileged user", status(none, none, allCapabilities, "0"), 0, "this user has none",
			"setcap cap_net_raw+ep /usr/bin/unproxy"},
		{"an unprivileged user in a hardened unit", status(none, none, allCapabilities, "1"), 0,
			"this user has none, and file capabilities have no effect", "# in a systemd unit: AmbientCapabilities=CAP_NET_RAW"},
		{"setcap in a hardened unit", status(none, none, allCapabilities, "1"), 1 << unix.CAP_NET_RAW,
			"no effect under no_new_privs", "# in a systemd unit: AmbientCapabilities=CAP_NET_RAW"},
		{"setcap on a nosuid mount", status(none, none, allCapabilities, "0"), 1 << unix.CAP_NET_RAW, "nosuid",
			"# in a systemd unit: AmbientCapabilities=CAP_NET_RAW"},
		{"setcap of another capability", status(none, none, allCapabilities, "0"), 1 << unix.CAP_NET_BIND_SERVICE,
			"this user has none", "setcap cap_net_raw+ep /usr/bin/unproxy"},
		{"root of a container that dropped it", status("0000000000000400", "0000000000000400", "0000000000000400", "0"), 0,
			"the bounding set", "# in a systemd unit: CAP_NET_RAW in CapabilityBoundingSet= and AmbientCapabilities="},
		{"setcap without e", status(none, onlyNetRaw, allCapabilities, "0"), 0, "permitted but not effective",
			"setcap cap_net_raw+ep /usr/bin/unproxy"},
		{"root of a user namespace in the host's network", status(allCapabilities, allCapabilities, allCapabilities, "0"),
			0, "another user namespace", "# run it in the user namespace that owns this network namespace, or in a new network namespace"},
	} {
		w := healthy()
		w.files["proc/self/status"], w.fileCaps = tt.status, tt.file
		h := w.host()
		p, err := h.privileges()
		if err != nil {
			t.Fatal(err)
		}
		why, hint := h.whyMissing(p, netRaw)
		if !strings.Contains(why, tt.why) || hint[0] != tt.hint {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, why, hint, tt.why, tt.hint)
		}
	}
}

func TestUnreadableCapabilities(t *testing.T) {
	for _, text := range []string{"", "CapEff:\tx\n"} {
		w := healthy()
		w.files["proc/self/status"] = text
		if text == "" {
			delete(w.files, "proc/self/status")
		}
		_, err := w.host().privileges()
		if err == nil || text == "" && !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
			t.Errorf("status %q: %v", text, err)
		}
	}
}

// Of a range, the first and the last port are tested. A target of several forwards is
// tested once.
func TestTargets(t *testing.T) {
	w := healthy()
	w.run(t, "--forward :3000-3999=127.0.0.1:4000-4999 --forward :2525=127.0.0.1:4000 --forward :26=127.0.0.1:4000?mark=7")
	var got []string
	for _, a := range w.attempts {
		got = append(got, a.To.String())
	}
	slices.Sort(got)
	if want := []string{"127.0.0.1:4000", "127.0.0.1:4000", "127.0.0.1:4999"}; !slices.Equal(got, want) {
		t.Errorf("attempts to %q, want %q", got, want)
	}
}

// Test clients are in the documentation networks and use the forward's mark.
func TestTestClients(t *testing.T) {
	w := healthy()
	w.run(t, "--forward :2525=127.0.0.1:25,[::1]:25 --transparent on --mark 9")
	clients := 0
	for _, a := range w.attempts {
		if a.Mark != 9 {
			t.Errorf("attempt without the mark: %+v", a)
		}
		if !a.From.IsValid() {
			continue
		}
		clients++
		network := netip.MustParsePrefix("192.0.2.0/24")
		if a.To.Addr().Is6() {
			network = netip.MustParsePrefix("2001:db8::/32")
		}
		if !network.Contains(a.From.Addr()) || a.From.Port() < 1024 {
			t.Errorf("attempt to %v from %v, which is not in %v", a.To, a.From, network)
		}
	}
	if clients != 2 {
		t.Errorf("%d test clients, want one per family", clients)
	}
}

// If the client's address and port are in use, the test uses others.
func TestTestClientCollides(t *testing.T) {
	w := healthy()
	n := 0
	w.onConnect = func(a Attempt) error {
		if n++; a.From.IsValid() && n < 3 {
			return &netErr{syscall.EADDRNOTAVAIL}
		}
		return nil
	}
	if got := w.run(t, ssh).lines(false); got != nil {
		t.Errorf("findings %q", got)
	}
}

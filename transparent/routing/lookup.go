package routing

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// Reply is a packet from a backend to a client.
type Reply struct {
	// From is the backend and To the client. They are unmapped and of the same
	// family.
	From, To netip.AddrPort
	UDP      bool
	// ICMP stands for a message of the backend's host that the backend is
	// unreachable. The ports of From and To are then ignored.
	ICMP bool
	// Device is the input interface; "lo" for packets that this host sends.
	Device string
	// Mark is the packet's mark, 0 for none.
	Mark uint32
}

// Decision is the kernel's routing decision for a packet.
type Decision struct {
	// Local reports whether the packet is delivered to a socket of this host.
	Local bool
	// Device is the output interface.
	Device string
	// Table is the routing table that contains the route.
	Table uint32
	// Rule is the rule that selected the table, as ip-rule(8) lists it, and
	// Preference its place. They are "" and 0 if unknown. For a packet without a
	// route it is the first matching rule after that of table local: this rule or
	// a later one is the reason.
	Rule       string
	Preference uint32
}

// ErrReversePath is the error of [Lookup] for a packet that the reverse-path filter
// drops: this host reaches the packet's source through another interface
// (rp_filter in ip-sysctl.rst, __fib_validate_source).
var ErrReversePath = errors.New("dropped by the reverse-path filter")

// Lookup queries the kernel's routing decision for a packet (RTM_GETROUTE,
// rtnetlink(7)). It sends no packet and needs no capability.
//
// If the packet has no route, the error wraps the kernel's reason, such as
// [unix.ENETUNREACH], or [ErrReversePath], and the decision holds only Rule and
// Preference.
func Lookup(r Reply) (Decision, error) {
	decision, err := query(r)
	rules, listErr := netlink.RuleList(family(r.From.Addr().Is6()))
	if listErr != nil {
		return decision, cmp.Or(err, fmt.Errorf("list the routing rules: %w", listErr))
	}
	isCandidate := func(rule *netlink.Rule) bool { return uint32(rule.Table) == decision.Table }
	if err != nil {
		isCandidate = func(rule *netlink.Rule) bool { return rule.Table != unix.RT_TABLE_LOCAL }
	}
	if rule := r.firstMatch(rules, isCandidate); rule != nil {
		decision.Rule, decision.Preference = ruleText(rule), uint32(rule.Priority)
	}
	return decision, err
}

// query returns the kernel's decision, which does not include the rule.
func query(r Reply) (Decision, error) {
	answer, err := r.request()
	// The reverse-path filter returned EXDEV before the kernel's lookup reported
	// drop reasons, and EINVAL since. It does not check the host's own packets.
	if r.Device != "lo" && (errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL)) {
		err = ErrReversePath
	}
	if err != nil {
		return Decision{}, fmt.Errorf("look up the route of a packet from %s to %s: %w", r.From, r.To.Addr(), err)
	}
	message := nl.DeserializeRtMsg(answer)
	attributes, err := nl.ParseRouteAttr(answer[message.Len():])
	if err != nil {
		return Decision{}, fmt.Errorf("parse the kernel's route: %w", err)
	}
	decision := Decision{Local: message.Type == unix.RTN_LOCAL, Table: uint32(message.Table)}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_TABLE:
			decision.Table = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_OIF:
			if link, err := netlink.LinkByIndex(int(binary.NativeEndian.Uint32(a.Value))); err == nil {
				decision.Device = link.Attrs().Name
			}
		}
	}
	return decision, nil
}

// protocol returns the IP protocol of the packet.
func (r Reply) protocol() uint8 {
	switch {
	case r.ICMP && r.From.Addr().Is6():
		return unix.IPPROTO_ICMPV6
	case r.ICMP:
		return unix.IPPROTO_ICMP
	case r.UDP:
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// ports returns the ports that the kernel compares with those of rules; see
// [returnpath.Rule.DestinationPorts] for those of ICMP.
func (r Reply) ports() (source, destination uint16) {
	switch {
	case !r.ICMP:
		return r.From.Port(), r.To.Port()
	case r.Device == "lo":
		return 0, returnpath.Unreachable(r.From.Addr().Is6()).Low
	}
	return 0, 0
}

// request sends the query and returns the reply. netlink.RouteGet does not support
// ports.
func (r Reply) request() ([]byte, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	bits := uint8(r.From.Addr().BitLen())
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family(r.From.Addr().Is6())), Dst_len: bits, Src_len: bits, Flags: unix.RTM_F_LOOKUP_TABLE,
	}})
	sport, dport := r.ports()
	request.AddData(nl.NewRtAttr(unix.RTA_DST, r.To.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_SRC, r.From.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{r.protocol()}))
	if sport != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, sport)))
	}
	if dport != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, dport)))
	}
	if r.Mark != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, r.Mark)))
	}
	// A packet of this host has no input interface. The kernel looks up its route
	// with "iif lo" (ip_route_output_key_hash).
	if r.Device != "lo" {
		link, err := netlink.LinkByName(r.Device)
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", r.Device, err)
		}
		request.AddData(nl.NewRtAttr(unix.RTA_IIF, binary.NativeEndian.AppendUint32(nil, uint32(link.Attrs().Index))))
	}
	answers, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	if len(answers) == 0 {
		return nil, unix.ENODATA
	}
	return answers[0], nil
}

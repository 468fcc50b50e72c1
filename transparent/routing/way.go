package routing

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Reply is a packet that a backend sends to a client.
type Reply struct {
	// From is the backend and To the client, of one family and unmapped.
	From, To netip.AddrPort
	UDP      bool
	// Device is the interface that the packet comes in by; "lo" for those that
	// this host sends itself.
	Device string
	// Mark is the packet's mark, 0 for none.
	Mark uint32
}

// Way is what this host does with a packet.
type Way struct {
	// Local says that it is handed to a socket of this host.
	Local bool
	// Device is the interface that it leaves by otherwise.
	Device string
	// Table is the routing table that said so.
	Table uint32
	// Rule is the rule that had the table looked up, as ip-rule(8) lists it,
	// and Preference its place; "" and 0 where that cannot be told. Of a packet
	// that has no way it is the first one behind the table local that matches:
	// that one or one behind it is the reason.
	Rule       string
	Preference uint32
}

// ErrReversePath is the error of [Find] for a packet that the host drops because
// it would send to the packet's source by another interface (rp_filter in
// ip-sysctl.rst, __fib_validate_source).
var ErrReversePath = errors.New("the reverse-path check drops it")

// Find asks the kernel what it would do with a packet (RTM_GETROUTE, rtnetlink(7)).
// No packet is sent, and no capability is needed.
//
// Of a packet that has no way the error wraps the kernel's reason, such as
// [unix.ENETUNREACH] for no route, or is [ErrReversePath].
func Find(r Reply) (Way, error) {
	way, err := ask(r)
	rules, listErr := netlink.RuleList(family(r.From.Addr().Is6()))
	if listErr != nil {
		return way, cmp.Or(err, fmt.Errorf("list the routing rules: %w", listErr))
	}
	decides := func(rule *netlink.Rule) bool { return uint32(rule.Table) == way.Table }
	if err != nil {
		decides = func(rule *netlink.Rule) bool { return rule.Table != unix.RT_TABLE_LOCAL }
	}
	if rule := r.first(rules, decides); rule != nil {
		way.Rule, way.Preference = text(rule), uint32(rule.Priority)
	}
	return way, err
}

// ask is the kernel's word alone.
func ask(r Reply) (Way, error) {
	answer, err := r.request()
	// EXDEV until the kernel's look-up learnt to tell drop reasons, EINVAL
	// since; packets of the host's own are not checked.
	if r.Device != "lo" && (errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL)) {
		err = ErrReversePath
	}
	if err != nil {
		return Way{}, fmt.Errorf("find the way of a packet from %s to %s: %w", r.From, r.To.Addr(), err)
	}
	message := nl.DeserializeRtMsg(answer)
	attributes, err := nl.ParseRouteAttr(answer[message.Len():])
	if err != nil {
		return Way{}, fmt.Errorf("read the kernel's route: %w", err)
	}
	way := Way{Local: message.Type == unix.RTN_LOCAL, Table: uint32(message.Table)}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_TABLE:
			way.Table = binary.NativeEndian.Uint32(a.Value)
		case unix.RTA_OIF:
			if link, err := netlink.LinkByIndex(int(binary.NativeEndian.Uint32(a.Value))); err == nil {
				way.Device = link.Attrs().Name
			}
		}
	}
	return way, nil
}

// request puts the question. netlink's own RouteGet knows no ports.
func (r Reply) request() ([]byte, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	bits := uint8(r.From.Addr().BitLen())
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family(r.From.Addr().Is6())), Dst_len: bits, Src_len: bits, Flags: unix.RTM_F_LOOKUP_TABLE,
	}})
	protocol := uint8(unix.IPPROTO_TCP)
	if r.UDP {
		protocol = unix.IPPROTO_UDP
	}
	request.AddData(nl.NewRtAttr(unix.RTA_DST, r.To.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_SRC, r.From.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{protocol}))
	request.AddData(nl.NewRtAttr(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, r.From.Port())))
	request.AddData(nl.NewRtAttr(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, r.To.Port())))
	if r.Mark != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, r.Mark)))
	}
	// A packet of the host's own has no interface to come in by: the kernel
	// looks its route up as "iif lo" by itself (ip_route_output_key_hash).
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

// first returns the first of the rules that match the packet and that decides.
func (r Reply) first(rules []netlink.Rule, decides func(*netlink.Rule) bool) *netlink.Rule {
	slices.SortStableFunc(rules, func(a, b netlink.Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	for i := range rules {
		if decides(&rules[i]) && r.matches(&rules[i]) {
			return &rules[i]
		}
	}
	return nil
}

// matches reports whether the packet is one that a rule speaks of
// (fib_rule_match, fib4_rule_match).
func (r Reply) matches(rule *netlink.Rule) bool {
	mask := uint32(0xffffffff)
	if rule.Mask != nil {
		mask = *rule.Mask
	}
	protocol := unix.IPPROTO_TCP
	if r.UDP {
		protocol = unix.IPPROTO_UDP
	}
	all := (rule.Src == nil || readPrefix(rule.Src).Contains(r.From.Addr())) &&
		(rule.Dst == nil || readPrefix(rule.Dst).Contains(r.To.Addr())) &&
		(rule.IifName == "" || rule.IifName == r.Device) && rule.OifName == "" &&
		(rule.Mark == 0 && rule.Mask == nil || r.Mark&mask == rule.Mark) &&
		(rule.IPProto == 0 || rule.IPProto == protocol) &&
		among(rule.Sport, r.From.Port()) && among(rule.Dport, r.To.Port())
	return all != rule.Invert
}

func among(ports *netlink.RulePortRange, port uint16) bool {
	return ports == nil || ports.Start <= port && port <= ports.End
}

// text writes a rule as ip-rule(8) lists it, as far as this package knows of it.
func text(r *netlink.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Invert {
		b.WriteString(" not")
	}
	if r.Src == nil {
		b.WriteString(" from all")
	} else {
		b.WriteString(" from " + readPrefix(r.Src).String())
	}
	if r.Dst != nil {
		b.WriteString(" to " + readPrefix(r.Dst).String())
	}
	if r.Mark != 0 {
		fmt.Fprintf(&b, " fwmark %#x", r.Mark)
	}
	if r.IifName != "" {
		b.WriteString(" iif " + r.IifName)
	}
	switch r.IPProto {
	case unix.IPPROTO_TCP:
		b.WriteString(" ipproto tcp")
	case unix.IPPROTO_UDP:
		b.WriteString(" ipproto udp")
	}
	if r.Sport != nil {
		fmt.Fprintf(&b, " sport %d-%d", r.Sport.Start, r.Sport.End)
	}
	if r.Table == 0 {
		return b.String() + " forbids it"
	}
	return b.String() + " lookup " + tableText(r.Table)
}

func tableText(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}

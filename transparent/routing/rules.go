package routing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// hostRule is a rule of this host as the kernel reports it.
type hostRule struct {
	// Rule is the rule of a plan with the same attributes. Its Owner is 0.
	returnpath.Rule
	// other means that the rule has attributes that no plan's rule has.
	other bool
	// owner is the origin that the rule is labelled with, 0 for none.
	owner uint8
	// mask selects the bits of the packet's mark that the rule compares.
	mask uint32
	// attributes are all values that a request to delete a rule can contain.
	attributes map[uint16][]byte
}

// The actions and flags of rules (linux/fib_rules.h).
const (
	actionTable = 1
	// flagsOfState are FIB_RULE_PERMANENT, UNRESOLVED, IIF_DETACHED and
	// OIF_DETACHED. FIB_RULE_INVERT is not one of them.
	flagsOfState = 0x1 | 0x4 | 0x8 | 0x10
)

// Attributes since Linux 6.15: which bits of a port are compared. The kernel sets
// all of them for a rule with one port.
const (
	sportMask = 28 // FRA_SPORT_MASK
	dportMask = 29 // FRA_DPORT_MASK
)

// hostRulesOf returns the host's rules of one family, in the kernel's order. A host
// that does not support the family has none.
func hostRulesOf(v6 bool) ([]hostRule, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(v6))}})
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("ip rule", err)
	}
	var all []hostRule
	for _, m := range messages {
		r, err := parseRule(m)
		if err != nil {
			return nil, failed("ip rule", err)
		}
		// For a family that it does not support, the kernel lists the others.
		if r.IPv6 == v6 {
			all = append(all, r)
		}
	}
	return all, nil
}

// hostRules returns the host's rules of both families. With an error it returns
// those of the other family.
func hostRules() (all []hostRule, err error) {
	for _, v6 := range families {
		present, listErr := hostRulesOf(v6)
		all, err = append(all, present...), errors.Join(err, listErr)
	}
	return all, err
}

// parseRule parses one message of the kernel. An unknown attribute marks the rule as
// another program's, because no rule of a plan has one.
func parseRule(message []byte) (hostRule, error) {
	if len(message) < unix.SizeofRtMsg {
		return hostRule{}, fmt.Errorf("a rule of %d bytes", len(message))
	}
	// struct fib_rule_hdr has the layout of struct rtmsg.
	header := nl.DeserializeRtMsg(message)
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return hostRule{}, err
	}
	r := hostRule{
		Rule: returnpath.Rule{IPv6: header.Family == unix.AF_INET6, Table: uint32(header.Table)},
		other: header.Type != actionTable || header.Flags&^flagsOfState != 0 ||
			header.Tos != 0 || header.Dst_len != 0,
		attributes: map[uint16][]byte{},
	}
	for _, a := range attributes {
		r.attributes[a.Attr.Type] = a.Value
		if !r.read(a.Attr.Type, a.Value, header.Src_len) {
			r.other = true
		}
	}
	// For a mark without a mask the kernel compares all bits.
	compared := r.mask == math.MaxUint32
	r.other = r.other || compared != (r.Mark != 0) || !compared && r.mask != 0 || !r.isPlanned()
	return r, nil
}

// isPlanned reports whether the rule has the form of a plan's: it is for marked
// packets, or for a backend's packets of one protocol from one interface.
func (r hostRule) isPlanned() bool {
	if r.Mark != 0 {
		return !r.From.IsValid() && r.Protocol == "" && r.Ports == returnpath.Ports{}
	}
	return r.From.IsValid() && r.In != "" && r.Protocol != ""
}

// read reads one attribute and reports whether a rule of a plan can have it.
func (r *hostRule) read(attribute uint16, value []byte, sourceBits uint8) bool {
	switch attribute {
	case unix.FRA_UNSPEC, unix.FRA_PAD:
		return true
	case unix.FRA_SRC:
		a, ok := netip.AddrFromSlice(value)
		r.From = netip.PrefixFrom(a, int(sourceBits))
		return ok
	case unix.FRA_IIFNAME:
		r.In = string(bytes.TrimRight(value, "\x00"))
		return true
	case unix.FRA_PROTOCOL:
		if len(value) > 0 {
			r.owner = value[0]
		}
		return true
	case unix.FRA_IP_PROTO:
		if len(value) > 0 {
			r.Protocol = protocolNames[value[0]]
		}
		return r.Protocol != ""
	case unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
		return r.readPorts(attribute, value)
	case sportMask, dportMask:
		mask := uint16(0)
		if len(value) >= 2 {
			mask = binary.NativeEndian.Uint16(value)
		}
		return mask == 0 || mask == math.MaxUint16
	}
	if len(value) < 4 {
		return false
	}
	number := binary.NativeEndian.Uint32(value)
	switch attribute {
	case unix.FRA_PRIORITY:
		r.Preference = number
	case unix.FRA_TABLE:
		r.Table = number
	case unix.FRA_FWMARK:
		r.Mark = number
	case unix.FRA_FWMASK:
		r.mask = number
	case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
		return number == math.MaxUint32 // none
	default:
		return false
	}
	return true
}

// readPorts reads a range of ports. A rule for ICMP has the message's type as the
// destination's.
func (r *hostRule) readPorts(attribute uint16, value []byte) bool {
	if len(value) < 4 {
		return false
	}
	ports := returnpath.Ports{Low: binary.NativeEndian.Uint16(value), High: binary.NativeEndian.Uint16(value[2:])}
	if attribute == unix.FRA_SPORT_RANGE {
		r.Ports = ports
		return true
	}
	r.Type = uint8(ports.Low >> 8)
	return ports == returnpath.Unreachable(r.IPv6)
}

// protocolNames are the protocols of a plan's rules.
var protocolNames = map[byte]string{
	unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp",
}

// is reports whether a rule is the same as that of a plan, regardless of its owner.
func (r hostRule) is(own returnpath.Rule) bool { return !r.other && r.Rule == normalize(own) }

// isRemovable reports whether the rule's label is that of a plan, or none: ip(8) writes
// RTPROT_BOOT for a rule that an operator typed without one.
func (r hostRule) isRemovable() bool {
	return returnpath.IsOwner(r.owner) || r.owner == unix.RTPROT_UNSPEC || r.owner == unix.RTPROT_BOOT
}

// same reports whether two rules of the kernel are equal.
func (r hostRule) same(o hostRule) bool {
	return r.other == o.other && r.owner == o.owner && r.Rule == o.Rule
}

// labelled returns the rule with its owner.
func (r hostRule) labelled() returnpath.Rule {
	own := r.Rule
	own.Owner = r.owner
	return own
}

// contains reports whether a plan's rule is in force.
func contains(present []hostRule, own returnpath.Rule) bool {
	return slices.ContainsFunc(present, func(r hostRule) bool { return r.is(own) })
}

// normalize returns a rule as the kernel reports it: without ports instead of all
// ports, and without its owner.
func normalize(r returnpath.Rule) returnpath.Rule {
	if r.Ports == returnpath.AllPorts {
		r.Ports = returnpath.Ports{}
	}
	r.Owner = 0
	return r
}

// deletes reports whether the kernel takes r for the rule that a request to delete
// own means: it compares only what the request contains, and neither the inversion
// nor further attributes (rule_find in fib_rules.c).
func (own hostRule) deletes(r hostRule) bool {
	if own.IPv6 != r.IPv6 || own.From.Bits() > 0 && own.From.Bits() != r.From.Bits() {
		return false
	}
	for attribute, value := range own.attributes {
		switch attribute {
		case unix.FRA_PROTOCOL:
			if own.owner == 0 {
				continue
			}
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP, unix.FRA_UNSPEC, unix.FRA_PAD,
			sportMask, dportMask:
			continue
		}
		if !bytes.Equal(value, r.attributes[attribute]) {
			return false
		}
	}
	return true
}

// addRule adds a rule of a plan. Another process may have added it meanwhile; but
// the kernel also takes some rules that differ for the same (rule_exists in
// fib_rules.c).
func addRule(r returnpath.Rule) error {
	err := send(ruleRequest(r, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL))
	if errors.Is(err, unix.EEXIST) {
		if present, listErr := hostRulesOf(r.IPv6); listErr == nil && contains(present, r) {
			return nil
		}
	}
	return failed(r.String(), err)
}

// removeRule removes a rule of this host. It ignores that another process has
// removed it meanwhile, and refuses if the kernel would delete another one.
func removeRule(r hostRule, trace func(string)) error {
	own := r.labelled()
	present, err := hostRulesOf(own.IPv6)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(present, r.deletes)
	if i < 0 {
		return nil
	}
	if !present[i].is(own) {
		return failed(own.Removal(), errOtherFirst)
	}
	trace(own.Removal())
	err = send(ruleRequest(own, unix.RTM_DELRULE, 0))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return failed(own.Removal(), err)
}

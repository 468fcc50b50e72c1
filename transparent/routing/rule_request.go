package routing

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"unproxy/transparent/returnpath"
)

// ruleRequest is a request to add or delete a rule of a plan. netlink.RuleAdd sends the
// protocol in four bytes, which the kernel takes with a warning in its log.
func ruleRequest(r returnpath.Rule, command, flags int) *nl.NetlinkRequest {
	owner := r.Owner
	r = normalize(r)
	// struct fib_rule_hdr has the layout of struct rtmsg.
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(r.IPv6))}}
	if command == unix.RTM_NEWRULE {
		header.Type = actionTable
	}
	request := nl.NewNetlinkRequest(command, flags|unix.NLM_F_ACK)
	request.AddData(header)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	number := func(attribute int, n uint32) { add(attribute, binary.NativeEndian.AppendUint32(nil, n)) }

	number(unix.FRA_PRIORITY, r.Preference)
	number(unix.FRA_TABLE, r.Table)
	if r.From.IsValid() {
		header.Src_len = uint8(r.From.Bits())
		add(unix.FRA_SRC, r.From.Addr().AsSlice())
	}
	if r.Mark != 0 {
		number(unix.FRA_FWMARK, r.Mark)
	}
	if r.In != "" {
		add(unix.FRA_IIFNAME, []byte(r.In+"\x00"))
	}
	for protocol, name := range protocolNames {
		if r.Protocol == name {
			add(unix.FRA_IP_PROTO, []byte{protocol})
		}
	}
	addPorts(add, unix.FRA_SPORT_RANGE, r.Ports)
	addPorts(add, unix.FRA_DPORT_RANGE, r.DestinationPorts())
	if owner != 0 {
		add(unix.FRA_PROTOCOL, []byte{owner})
	}
	return request
}

// addPorts adds a range of ports unless it is empty.
func addPorts(add func(int, []byte), attribute int, p returnpath.Ports) {
	if p != (returnpath.Ports{}) {
		add(attribute, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, p.Low), p.High))
	}
}

func send(request *nl.NetlinkRequest) error {
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

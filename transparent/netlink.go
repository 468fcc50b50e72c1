package transparent

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Apply adds what is missing of p to the host. It needs CAP_NET_ADMIN. Doing it
// again changes nothing. After an error part of p may be in place; [Remove]
// takes that away.
//
// [Remove]: ReturnPath.Remove
func (p ReturnPath) Apply() error {
	for _, r := range p.Routes {
		route, err := r.netlink()
		if err == nil {
			err = netlink.RouteReplace(route)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	for _, r := range p.Rules {
		// The kernel refuses a rule that is there already, preference and
		// all (rule_exists in fib_rules.c).
		if err := netlink.RuleAdd(r.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	return nil
}

// Remove takes p's rules away, and those of its routes whose table no other
// rule looks up: another gateway may live by them. What is not there is no
// error. All is tried; the errors are joined.
func (p ReturnPath) Remove() error {
	var all []error
	for _, r := range p.Rules {
		if err := netlink.RuleDel(r.netlink()); err != nil && !errors.Is(err, unix.ENOENT) {
			all = append(all, fmt.Errorf("remove what %q added: %w", r, err))
		}
	}
	for _, r := range p.Routes {
		if err := r.remove(); err != nil {
			all = append(all, fmt.Errorf("remove what %q added: %w", r, err))
		}
	}
	return errors.Join(all...)
}

func (r Route) remove() error {
	rules, err := netlink.RuleList(r.family())
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if rule.Table == int(r.Table) {
			return nil
		}
	}
	route, err := r.netlink()
	if err != nil {
		return err
	}
	err = netlink.RouteDel(route)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil // no such route, or no such table
	}
	return err
}

func (r Route) family() int {
	if r.IPv6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func (r Route) netlink() (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if r.IPv6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       all,
		Table:     int(r.Table),
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
	}, nil
}

func (r Rule) netlink() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Src = &net.IPNet{
		IP:   r.From.Addr().AsSlice(),
		Mask: net.CIDRMask(r.From.Bits(), r.From.Addr().BitLen()),
	}
	rule.IifName = r.In
	rule.IPProto = unix.IPPROTO_TCP
	if r.Protocol == "udp" {
		rule.IPProto = unix.IPPROTO_UDP
	}
	rule.Sport = netlink.NewRulePortRange(r.SourcePort, r.SourcePort)
	rule.Table = int(r.Table)
	rule.Priority = int(r.Preference)
	return rule
}

// LoopbackUp brings lo up, which in a new network namespace is down. It needs
// CAP_NET_ADMIN; doing it again changes nothing.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("ip link set lo up: %w", err)
	}
	return nil
}

package returnpath

import (
	"fmt"
	"slices"
	"strings"
)

// Format is a configuration format that makes a plan persist across reboots.
type Format uint8

// The values of [Format].
const (
	// Shell is a script for sh(1).
	Shell Format = iota
	// Networkd is a file for systemd-networkd.
	Networkd
	// Netplan is a file for systemd-networkd that complements a netplan
	// configuration, whose own keys support neither interfaces nor ports in rules.
	Netplan
	// Interfaces is a fragment of /etc/network/interfaces.
	Interfaces
)

var formats = [...]string{Shell: "shell", Networkd: "networkd", Netplan: "netplan", Interfaces: "interfaces"}

// String returns the value of the flag --format.
func (f Format) String() string { return formats[f] }

// FormatNames returns the values of the flag --format, in the order of the
// constants. The caller owns the slice.
func FormatNames() []string { return slices.Clone(formats[:]) }

// Commands returns the shell commands that apply the plan, in order. The packet
// filter's spans several lines.
func (p Plan) Commands() []string {
	var all []string
	for _, r := range p.Routes {
		all = append(all, r.String())
	}
	for _, r := range p.Rules {
		all = append(all, r.String())
	}
	if p.Filter != nil {
		all = append(all, p.Filter.Command())
	}
	return all
}

// Print returns the plan in a format.
func (p Plan) Print(f Format) string {
	var w writer
	if f == Shell {
		w.line(0, "#!/bin/sh")
	}
	w.notes(p.Notes)
	switch f {
	case Networkd:
		p.networkd(&w)
	case Netplan:
		w.line(0, "# This is a file for systemd-networkd, not YAML for /etc/netplan: netplan has no keys for")
		w.line(0, "# the interface and ports of a rule. It works next to netplan's files with the renderer")
		w.line(0, "# networkd. With NetworkManager, have a systemd unit run \"unproxy routes apply\" instead.")
		p.networkd(&w)
	case Interfaces:
		p.interfaces(&w)
	default:
		p.shell(&w)
	}
	return w.String()
}

// notes writes the notes as comments.
func (w *writer) notes(all []Note) {
	for _, n := range all {
		w.line(0, "# NOTE %s", n)
	}
}

// shell writes a script that can be repeated.
func (p Plan) shell(w *writer) {
	w.line(0, "# Run as root. \"File exists\" means that a rule is already there.")
	for _, r := range p.Routes {
		w.line(0, "%s", r)
	}
	for _, r := range p.Rules {
		w.line(0, "%s", r)
	}
	if p.Filter != nil {
		w.line(0, "nft list table inet %s >/dev/null 2>&1 || %s", p.Filter.Name(), p.Filter.Command())
	}
}

// interfaces writes options of the loopback interface (interfaces(5)).
func (p Plan) interfaces(w *writer) {
	w.line(0, "# /etc/network/interfaces: below \"iface lo inet loopback\"")
	for _, r := range p.Routes {
		w.line(1, "up %s", r)
	}
	for _, r := range p.Rules {
		w.line(1, "up %s || true", r)
	}
	for _, r := range p.Rules {
		w.line(1, "down %s || true", r.Removal())
	}
	for _, r := range p.Routes {
		w.line(1, "down %s || true", r.Removal())
	}
	p.nftables(w)
}

// nftables writes the table for /etc/nftables.conf, which the systemd service
// nftables loads at boot.
func (p Plan) nftables(w *writer) {
	if p.Filter == nil {
		return
	}
	w.line(0, "\n# /etc/nftables.conf, loaded by the service nftables:")
	w.WriteString(p.Filter.String())
}

// networkd writes a systemd.network(5) file for lo, which every host has.
func (p Plan) networkd(w *writer) {
	w.line(0, "# /etc/systemd/network/50-unproxy.network; then: networkctl reload")
	w.line(0, "[Match]\nName=lo")
	for _, r := range p.Routes {
		all := "0.0.0.0/0"
		if r.IPv6 {
			all = "::/0"
		}
		w.line(0, "\n[Route]\nDestination=%s\nType=local\nTable=%d", all, r.Table)
	}
	for _, r := range p.Rules {
		w.line(0, "\n[RoutingPolicyRule]")
		for _, pair := range r.networkd() {
			w.line(0, "%s", pair)
		}
	}
	p.nftables(w)
}

// networkd returns the keys of the rule's [RoutingPolicyRule] section.
func (r Rule) networkd() []string {
	family := "ipv4"
	if r.IPv6 {
		family = "ipv6"
	}
	all := []string{"Family=" + family}
	if r.From.IsValid() {
		all = append(all, "From="+r.From.String())
	}
	if r.In != "" {
		all = append(all, "IncomingInterface="+r.In)
	}
	if r.Protocol != "" {
		// systemd's name of ipv6-icmp is that of IPPROTO_ICMPV6.
		all = append(all, "IPProtocol="+strings.Replace(r.Protocol, "ipv6-icmp", "icmpv6", 1))
	}
	if r.hasPorts() {
		all = append(all, "SourcePort="+r.Ports.String())
	}
	if types, ok := r.types(); ok {
		all = append(all, "DestinationPort="+types.String())
	}
	if r.Mark != 0 {
		all = append(all, fmt.Sprintf("FirewallMark=%d", r.Mark))
	}
	return append(all, "Table="+r.table(), fmt.Sprintf("Priority=%d", r.Preference))
}

package migrate

import (
	"fmt"
	"net/netip"
	"strings"

	"unproxy/gateway/command/usage"
)

// result is a set-up in the terms of unproxy.
type result struct {
	flags []setting
	notes []string
	// old are the commands that remove the return path of the old set-up.
	old []string
}

// setting is a flag and its value, which is "" for a switch.
type setting struct{ name, value string }

func (s setting) String() string {
	if s.value == "" {
		return s.name
	}
	return s.name + " " + usage.ShellQuote(s.value)
}

func (r *result) flag(name, value string) { r.flags = append(r.flags, setting{name, value}) }

func (r *result) note(text string) { r.notes = append(r.notes, text) }

// translate returns the set-up that o describes.
func translate(o options) *result {
	r := new(result)
	r.flag("--forward", r.forward(o))
	r.flag("--transparent", "")
	r.trust(o)
	if o.dynamic {
		r.flag("--allow-destination", "any")
		r.note("Like go-mmproxy, this lets the load balancer name any destination. " +
			"Replace \"any\" by the networks of your servers.")
	}
	if o.tproxy {
		r.flag("--tproxy", "")
		r.note("Your rules for TPROXY go on working. With --redirect, such as --redirect :10000-20000, " +
			"\"unproxy routes apply\" makes them instead.")
	}
	if o.mark != 0 {
		r.flag("--mark", fmt.Sprint(o.mark))
		r.note("The mark is needed only if other rules of yours use it: \"unproxy routes\" needs none.")
	}
	if o.protocol == "udp" && o.closeAfter != 60 {
		r.flag("--udp-idle-timeout", fmt.Sprintf("%ds", o.closeAfter))
	}
	r.differences(o)
	return r
}

// forward returns the value of --forward.
func (r *result) forward(o options) string {
	listen := netip.MustParseAddrPort(o.listen)
	from := o.listen
	if listen.Addr() == netip.IPv6Unspecified() {
		from = fmt.Sprintf(":%d", listen.Port()) // IPv4 as well
	}
	if o.protocol == "udp" {
		from = "udp://" + from
	}
	return from + "=" + strings.Join(r.backends(o), ",")
}

// backends returns the backends, one for each family.
func (r *result) backends(o options) []string {
	switch {
	case o.dynamic:
		return []string{"header"}
	case o.to4 == "" && o.to6 == "":
		return []string{default4, default6}
	case o.to6 == "":
		r.note("IPv6 clients are refused, because only -4 is given: go-mmproxy sends them to its default, " +
			default6 + ". Add a backend to --forward to serve them.")
		return []string{o.to4}
	case o.to4 == "":
		r.note("IPv4 clients are refused, because only -6 is given: go-mmproxy sends them to its default, " +
			default4 + ". Add a backend to --forward to serve them.")
		return []string{o.to6}
	}
	return []string{o.to4, o.to6}
}

// trust adds who may send headers.
func (r *result) trust(o options) {
	if o.subnets != "" {
		r.flag("--trust-file", o.subnets)
		return
	}
	r.flag("--trust", "any")
	r.note("Like go-mmproxy without -allowed-subnets, this lets every host that reaches the port claim to be " +
		"any client. Replace \"any\" by the addresses of your load balancers.")
}

// list adds what is wrong with the allow list of the old set-up, if anything is.
func (r *result) list(path string, err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		r.note("Correct " + path + " first: " + strings.TrimSpace(line) + ".")
	}
}

// differences adds what unproxy does in another way.
func (r *result) differences(o options) {
	if o.listeners > 1 {
		r.note("-listeners has no counterpart: one event loop for each processor is the default, see --loops.")
	}
	r.note("The log has a line for each connection, with its outcome. --log-level warn leaves out those " +
		"that went well.")
	r.note("Headers that name loopback, broadcast or this host's own addresses are refused, see --allow-source.")
	if o.protocol == "udp" {
		r.note("Every datagram must have a version 2 header, as with go-mmproxy. For senders that send one " +
			"only in the first of a flow, add --udp-header first.")
	}
}

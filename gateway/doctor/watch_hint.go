package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"unproxy/transparent/returnpath"
)

// hints holds a one-line hint for each backend. It is replaced as a whole, so that
// event loops can query it without blocking.
type hints struct{ current atomic.Pointer[hintTable] }

type hintTable struct {
	single   map[netip.Addr]string
	prefixes []prefixHint
	networks []netip.Prefix // see hints.sameNetwork
}

type prefixHint struct {
	prefix netip.Prefix
	text   string
}

// find returns the hint for a backend, or "".
func (h *hints) find(a netip.Addr) string {
	t := h.current.Load()
	if t == nil {
		return ""
	}
	if text, ok := t.single[a]; ok {
		return text
	}
	for _, p := range t.prefixes {
		if p.prefix.Contains(a) {
			return p.text
		}
	}
	return ""
}

// sameNetwork reports whether one of the networks that lead to backends contains
// both addresses.
func (h *hints) sameNetwork(backend, client netip.Addr) bool {
	t := h.current.Load()
	return t != nil && slices.ContainsFunc(t.networks, func(p netip.Prefix) bool {
		return p.Contains(backend) && p.Contains(client)
	})
}

// linkNetworks returns the networks of the interfaces that lead to a plan's
// backends without a router.
func (h Host) linkNetworks(p returnpath.Plan) []netip.Prefix {
	var devices []string
	var all []netip.Prefix
	for _, b := range p.Backends {
		if b.Reach.Place != returnpath.Link || slices.Contains(devices, b.Reach.Device) {
			continue
		}
		devices = append(devices, b.Reach.Device)
		if networks, err := h.Networks(b.Reach.Device); err == nil { // else the interface is gone
			all = append(all, networks...)
		}
	}
	return all
}

// replace builds the hints for a plan's backends: the finding's hint for a broken
// backend, else the commands of the plan. apply stands for a command that does not
// fit a line. networks are those of [Host.linkNetworks].
func (h *hints) replace(p returnpath.Plan, broken map[netip.Addr]Finding, networks []netip.Prefix, apply string) {
	t := &hintTable{single: make(map[netip.Addr]string, len(p.Backends)), networks: networks}
	for _, b := range p.Backends {
		a := b.Addr.Addr()
		text := apply
		if f, isBroken := broken[a]; isBroken {
			text = hintLine(f.Hint, apply)
		} else if part := p.For(a); part.Filter == nil {
			text = hintLine(part.Commands(), apply)
		}
		if b.Addr.IsSingleIP() {
			t.single[a] = text
			continue
		}
		t.prefixes = append(t.prefixes, prefixHint{b.Addr, text})
	}
	h.current.Store(t)
}

// hintLine returns a hint on one line: its commands; apply if one of them spans
// several lines; its comments if there is no command.
func hintLine(hint []string, apply string) string {
	isComment := func(s string) bool { return strings.HasPrefix(s, "#") }
	if slices.ContainsFunc(hint, func(s string) bool { return strings.Contains(s, "\n") }) {
		return apply
	}
	commands := slices.DeleteFunc(slices.Clone(hint), isComment)
	if len(commands) > 0 {
		return strings.Join(commands, "; ")
	}
	var words []string
	for _, comment := range hint {
		words = append(words, strings.TrimLeft(comment, "# "))
	}
	return strings.Join(words, "; ")
}

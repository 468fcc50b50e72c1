package doctor

import (
	"context"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"unproxy/transparent/returnpath"
)

// remedies is what brings the replies of each backend back. It is replaced as a
// whole, so that an event loop may ask it.
type remedies struct{ now atomic.Pointer[remedyTable] }

type remedyTable struct {
	single   map[netip.Addr]string
	prefixes []prefixRemedy
}

type prefixRemedy struct {
	prefix netip.Prefix
	text   string
}

// find returns the remedy for a backend, or "".
func (r *remedies) find(a netip.Addr) string {
	t := r.now.Load()
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

// learn makes the remedies of a plan's backends: of those that were found
// broken what the finding says, of the others all that the plan has for them.
func (r *remedies) learn(p returnpath.Plan, found map[netip.Addr]Finding, apply string) {
	t := &remedyTable{single: make(map[netip.Addr]string, len(p.Backends))}
	for _, b := range p.Backends {
		a := b.Addr.Addr()
		text := apply
		if f, broken := found[a]; broken {
			text = line(f.Action, apply)
		} else if part := p.For(a); part.Filter == nil {
			text = line(part.Commands(), apply)
		}
		if b.Addr.IsSingleIP() {
			t.single[a] = text
			continue
		}
		t.prefixes = append(t.prefixes, prefixRemedy{b.Addr, text})
	}
	r.now.Store(t)
}

// line writes what mends a thing in one line: its commands, or apply where one of
// them spans several lines, or the comments where there is no command.
func line(action []string, apply string) string {
	isComment := func(s string) bool { return strings.HasPrefix(s, "#") }
	if slices.ContainsFunc(action, func(s string) bool { return strings.Contains(s, "\n") }) {
		return apply
	}
	commands := slices.DeleteFunc(slices.Clone(action), isComment)
	if len(commands) > 0 {
		return strings.Join(commands, "; ")
	}
	var words []string
	for _, comment := range action {
		words = append(words, strings.TrimLeft(comment, "# "))
	}
	return strings.Join(words, "; ")
}

// withoutPrograms returns the host as a daemon looks at it: without running
// other programs, which a sandbox may forbid. The packet filter cannot be seen
// that way.
func (h Host) withoutPrograms() Host {
	missing := h.Missing
	h.Missing = func(ctx context.Context, p returnpath.Plan) (returnpath.Plan, error) {
		filter := p.Filter
		p.Filter = nil
		part, err := missing(ctx, p)
		if err == nil && filter != nil {
			err = fs.ErrPermission
		}
		return part, err
	}
	h.Firewall = func(context.Context) (string, error) { return "", fs.ErrPermission }
	return h
}

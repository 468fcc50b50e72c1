package returnpath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Default is the table, the preference and the mark that a plan uses unless
// told otherwise. It means nothing; 100 and 123, which other instructions use,
// collide with each other.
const Default = 7700

// mostRules is how many rules a plan has before its backends are kept in a set
// of the packet filter instead: the kernel tries the rules one by one, for every
// packet that it routes.
const mostRules = 32

// Recipe is a way to bring replies back.
type Recipe uint8

// The recipes.
const (
	// Auto takes Rules where they hit nothing but the gateway's replies, and
	// Marks elsewhere.
	Auto Recipe = iota
	// Rules are routing rules that match a backend's address and port. They
	// need no packet filter, but cannot tell the gateway's connections from
	// others to the same port.
	Rules
	// Marks has the packet filter mark the replies that belong to one of the
	// gateway's connections, and a rule route what is marked. Backends on
	// loopback always have Rules.
	Marks
)

var recipes = [...]string{Auto: "auto", Rules: "rules", Marks: "marks"}

// String returns the word of the flag --recipe.
func (r Recipe) String() string { return recipes[r] }

// RecipeNames returns the words of the flag --recipe, in the order of the
// constants.
func RecipeNames() []string { return recipes[:] }

// Options is what can be chosen about a plan. In each field but Recipe zero
// stands for [Default].
type Options struct {
	// Table is the routing table that everything is local in.
	Table uint32
	// Preference is the place of the first rule among all rules of the host,
	// the lowest first. That of the local table has 0, the others 32766 and up.
	// Two gateways of one host whose backends are the same take two preferences.
	Preference uint32
	// Mark is the first of three packet marks: of replies that come in by a
	// device, of what is redirected to a listener, and of replies that the host
	// itself sends.
	Mark   uint32
	Recipe Recipe
}

// WithDefaults returns o with [Default] in place of what is zero.
func (o Options) WithDefaults() Options {
	o.Table = cmp.Or(o.Table, Default)
	o.Preference = cmp.Or(o.Preference, Default)
	o.Mark = cmp.Or(o.Mark, Default)
	return o
}

// Plan is what has to be in force on a host so that replies come back. It is
// data; the zero value is empty. Do not change one that is in use.
type Plan struct {
	// Backends are those that the plan was made for.
	Backends []Backend
	Routes   []Route
	Rules    []Rule
	// Filter is the packet filter's part; nil where there is none.
	Filter *Filter
	// Notes are what the operator has to know: what the plan cannot do, and
	// what it does besides.
	Notes []Note
}

// Note is something that the operator has to know about a plan.
type Note struct {
	// About is the backend concerned.
	About string
	// Message says what is the matter, and Remedy what to do; "" for nothing.
	Message, Remedy string
}

// String returns the note in one line.
func (n Note) String() string {
	s := n.About + ": " + n.Message
	if n.Remedy != "" {
		s += ": " + n.Remedy
	}
	return s
}

// New makes the plan for backends, each with its place, and for what is to be
// redirected to the gateway's own listeners. The order does not matter, and what
// occurs twice counts once.
func New(backends []Backend, redirects []Redirect, o Options) Plan {
	o = o.WithDefaults()
	b := &builder{options: o, plan: Plan{Backends: merge(backends)}}
	for _, to := range b.plan.Backends {
		b.place(to)
	}
	b.spare()
	b.marks(redirects)
	slices.SortStableFunc(b.plan.Rules, func(x, y Rule) int { return cmp.Compare(x.Preference, y.Preference) })
	slices.SortFunc(b.plan.Routes, func(x, y Route) int { return strings.Compare(x.String(), y.String()) })
	return b.plan
}

// builder is a plan in the making.
type builder struct {
	options       Options
	plan          Plan
	ruled, marked []Backend
}

// place decides on the recipe of one backend.
func (b *builder) place(to Backend) {
	switch to.Reach.Place {
	case Unknown:
		b.note(to, "this host has no route to it, so nothing brings its replies back", "see ip route get "+to.Addr.Addr().String())
		return
	case Routed:
		b.note(to, fmt.Sprintf("it is behind the router %s: its replies come back only if they are routed to this host", to.Reach.Router),
			"join the two hosts by a link or a tunnel, and see unproxy routes print --backend-host")
	}
	if b.recipe(to) == Rules {
		b.ruled = append(b.ruled, to)
		return
	}
	b.marked = append(b.marked, to)
}

// recipe returns the recipe of one backend, and says what that costs.
func (b *builder) recipe(to Backend) Recipe {
	place := to.Reach.Place
	// Linux has no route out for a packet from 127.0.0.0/8, so that it never
	// comes to be marked (ip_route_output_key_hash_rcu).
	if place == Loopback {
		return Rules
	}
	exact := place != Local && !to.Reach.Forwards && to.Addr.IsSingleIP() && to.Ports != AllPorts
	switch {
	case b.options.Recipe == Marks || b.options.Recipe == Auto && !exact:
		return Marks
	case exact:
		return Rules
	}
	b.note(to, "rules cannot tell the gateway's connections to it from others: those will not be answered", "--recipe marks")
	return Rules
}

// spare keeps the number of rules low. Backends on a link go into a set; those
// on a loopback address of their own need no ports.
func (b *builder) spare() {
	if len(b.ruled) > mostRules && b.options.Recipe == Auto {
		var kept []Backend
		for _, to := range b.ruled {
			if to.Reach.Place == Loopback {
				kept = append(kept, to)
				continue
			}
			b.marked = append(b.marked, to)
		}
		b.ruled = kept
	}
	if len(b.ruled) > mostRules {
		b.ruled = widen(b.ruled)
	}
	if n := len(b.ruled); n > mostRules {
		b.note(b.ruled[0], fmt.Sprintf("%d rules are tried for every packet that this host routes", n),
			"give the backends a loopback address of their own, such as 127.0.0.9, which takes one rule")
	}
	for _, to := range b.ruled {
		b.rule(Rule{From: to.Addr, In: to.Reach.Device, Protocol: to.protocol(), Ports: to.Ports})
	}
}

// widen gives backends on a loopback address that is theirs alone one rule for
// all ports. 127.0.0.1 and ::1 are everybody's: ports may be published there
// whose replies must not be touched.
func widen(all []Backend) []Backend {
	wide := slices.Clone(all)
	for i, to := range wide {
		own := to.Reach.Place == Loopback && to.Addr.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && to.Addr.Addr() != netip.IPv6Loopback()
		if own {
			wide[i].Ports = AllPorts
		}
	}
	return merge(wide)
}

// marks plans the packet filter, and the rules for what it marks.
func (b *builder) marks(redirects []Redirect) {
	f := &Filter{Mark: b.options.Mark, Redirects: slices.Clone(redirects)}
	for _, to := range b.marked {
		into, mark := &f.Links, f.linkMark()
		if to.Reach.Place == Local {
			into, mark = &f.Locals, f.localMark()
		}
		*into = append(*into, to)
		// A rule that names the interface leaves the reverse-path look-up
		// alone, which src_valid_mark has use the mark, too: it comes in by
		// lo (__fib_validate_source).
		b.rule(Rule{IPv6: to.Addr.Addr().Is6(), In: to.Reach.Device, Mark: mark})
	}
	for _, v6 := range []bool{false, true} {
		if slices.ContainsFunc(redirects, func(r Redirect) bool { return r.of(v6) }) {
			b.rule(Rule{IPv6: v6, In: "lo", Mark: f.redirectMark(), Table: mainTable}) // for that same look-up
			b.rule(Rule{IPv6: v6, Mark: f.redirectMark(), Preference: b.options.Preference + 1})
		}
	}
	if len(f.Links)+len(f.Locals)+len(f.Redirects) > 0 {
		b.plan.Filter = f
	}
}

// rule adds a rule, and the route behind it. Table and preference are the plan's
// unless the rule has its own.
func (b *builder) rule(r Rule) {
	r.IPv6 = r.IPv6 || r.From.Addr().Is6()
	r.Table = cmp.Or(r.Table, b.options.Table)
	r.Preference = cmp.Or(r.Preference, b.options.Preference)
	b.plan.Rules = appendNew(b.plan.Rules, r)
	b.plan.Routes = appendNew(b.plan.Routes, Route{IPv6: r.IPv6, Table: b.options.Table})
}

func (b *builder) note(about Backend, message, remedy string) {
	b.plan.Notes = append(b.plan.Notes, Note{About: about.String(), Message: message, Remedy: remedy})
}

func appendNew[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

// Empty reports whether there is nothing to put into force.
func (p Plan) Empty() bool { return len(p.Routes)+len(p.Rules) == 0 && p.Filter == nil }

// For returns the part of the plan that concerns one backend's address: what
// brings its replies back.
func (p Plan) For(a netip.Addr) Plan {
	var part Plan
	devices := map[string]bool{}
	for _, b := range p.Backends {
		if b.Addr.Contains(a) {
			part.Backends = append(part.Backends, b)
			devices[b.Reach.Device] = true
		}
	}
	marked := p.Filter != nil && p.Filter.covers(a)
	for _, r := range p.Rules {
		own := r.From.IsValid() && r.From.Contains(a)
		byMark := marked && r.Mark != 0 && r.Mark != p.Filter.redirectMark() && r.IPv6 == a.Is6() && devices[r.In]
		if own || byMark {
			part.Rules = append(part.Rules, r)
		}
	}
	for _, r := range p.Routes {
		if r.IPv6 == a.Is6() && len(part.Rules) > 0 {
			part.Routes = append(part.Routes, r)
		}
	}
	if marked {
		part.Filter = p.Filter
	}
	return part
}

// Diverted returns the part of the plan that hands connections to the gateway's
// own listeners.
func (p Plan) Diverted() Plan {
	var part Plan
	if p.Filter == nil || len(p.Filter.Redirects) == 0 {
		return part
	}
	part.Filter = p.Filter
	families := map[bool]bool{}
	for _, r := range p.Rules {
		if r.Mark == p.Filter.redirectMark() {
			part.Rules = append(part.Rules, r)
			families[r.IPv6] = true
		}
	}
	for _, r := range p.Routes {
		if families[r.IPv6] {
			part.Routes = append(part.Routes, r)
		}
	}
	return part
}

// merge sorts backends and joins what lies side by side: ports 21000 to 21999
// of one server are one backend.
func merge(all []Backend) []Backend {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(x, y Backend) int {
		return cmp.Or(
			x.Addr.Addr().Compare(y.Addr.Addr()),
			cmp.Compare(x.Addr.Bits(), y.Addr.Bits()),
			strings.Compare(x.protocol(), y.protocol()),
			strings.Compare(x.Reach.Device, y.Reach.Device),
			cmp.Compare(x.Ports.Low, y.Ports.Low),
		)
	})
	var merged []Backend
	for _, b := range sorted {
		within := func(other Backend) bool { return other.contains(b) }
		if n := len(merged); n > 0 && merged[n-1].absorb(b) || slices.ContainsFunc(merged, within) {
			continue
		}
		merged = append(merged, b)
	}
	return merged
}

// contains reports whether b is a prefix, with all its ports, that other is
// within. Prefixes come before what is within them.
func (b Backend) contains(other Backend) bool {
	return b.Ports == AllPorts && b.UDP == other.UDP && b.Reach.Device == other.Reach.Device &&
		b.Addr.Bits() < other.Addr.Bits() && b.Addr.Contains(other.Addr.Addr())
}

// absorb joins other to b if they are the same but for ports that meet.
func (b *Backend) absorb(other Backend) bool {
	same := *b
	same.Ports = other.Ports
	if same != other || int(other.Ports.Low) > int(b.Ports.High)+1 {
		return false
	}
	b.Ports.High = max(b.Ports.High, other.Ports.High)
	return true
}

package returnpath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Default is the table, the preference and the first mark of a plan unless the
// operator chooses others. The number is arbitrary. It avoids 100 and 123, which
// the instructions of other programs use.
const Default = 7700

// maxRules is the number of rules above which a plan keeps backends in a set of
// the packet filter instead: the kernel evaluates rules one by one for every
// packet that it routes.
const maxRules = 32

// Recipe is a method to return replies to the gateway.
type Recipe uint8

// The values of [Recipe].
const (
	// Auto uses Rules if they match only the gateway's replies, else Marks.
	Auto Recipe = iota
	// Rules uses routing rules that match a backend's address and port. They need
	// no packet filter, but cannot distinguish the gateway's connections from
	// others to the same port.
	Rules
	// Marks uses the packet filter to mark replies that belong to connections of
	// the gateway, and a rule that routes marked packets. Backends on loopback
	// always use Rules.
	Marks
)

var recipes = [...]string{Auto: "auto", Rules: "rules", Marks: "marks"}

// String returns the value of the flag --recipe.
func (r Recipe) String() string { return recipes[r] }

// RecipeNames returns the values of the flag --recipe, in the order of the
// constants. The caller owns the slice.
func RecipeNames() []string { return slices.Clone(recipes[:]) }

// Options are the operator's choices for a plan. Zero in any field but Recipe
// stands for [Default], and for [DefaultOwner].
type Options struct {
	// Table is the routing table in which all addresses are local.
	Table uint32
	// Preference is the place of the plan's first rule among all rules of the
	// host; lower ones come first. The rule for table local has 0, those for main
	// and default have 32766 and 32767. Two gateways on one host with the same
	// backends need different preferences.
	Preference uint32
	// Mark is the first of three consecutive packet marks: of replies that arrive
	// on a device, of packets redirected to a listener, and of replies that the
	// host itself sends.
	Mark   uint32
	Recipe Recipe
	// Owner labels the plan's rules and its packet filter table; see
	// [Targets.Owner].
	Owner uint8
}

// WithDefaults returns o with zeros replaced by [Default].
func (o Options) WithDefaults() Options {
	o.Table = cmp.Or(o.Table, Default)
	o.Preference = cmp.Or(o.Preference, Default)
	o.Mark = cmp.Or(o.Mark, Default)
	o.Owner = cmp.Or(o.Owner, DefaultOwner)
	return o
}

// Plan is the network configuration that returns replies to the gateway. It is
// immutable data; the zero value is empty.
type Plan struct {
	// Backends are the backends that the plan covers.
	Backends []Backend
	Routes   []Route
	Rules    []Rule
	// Filter is the packet filter table, or nil.
	Filter *Filter
	// Notes list limitations and side effects for the operator.
	Notes []Note
	// Options are those that the plan was made with, with defaults. Parts of a
	// plan have none.
	Options Options
}

// Note is a limitation or side effect of a plan.
type Note struct {
	// About is the backend concerned.
	About string
	// Message describes the effect.
	Message string
	// Hint says what to do about it.
	Hint string
}

// String returns the note on one line.
func (n Note) String() string { return n.About + ": " + n.Message + ": " + n.Hint }

// New returns the plan for backends, each with its place, and for redirects to
// the gateway's listeners. The result depends neither on their order nor on
// repetitions.
func New(backends []Backend, redirects []Redirect, o Options) Plan {
	o = o.WithDefaults()
	b := &builder{options: o, plan: Plan{Backends: merge(backends), Options: o}}
	for _, to := range b.plan.Backends {
		b.place(to)
	}
	b.rules()
	b.marks(redirects)
	slices.SortStableFunc(b.plan.Rules, func(x, y Rule) int { return cmp.Compare(x.Preference, y.Preference) })
	slices.SortFunc(b.plan.Routes, func(x, y Route) int { return strings.Compare(x.String(), y.String()) })
	return b.plan
}

// builder builds a plan.
type builder struct {
	options Options
	plan    Plan
	ruled   []Backend // whose recipe is Rules
	marked  []Backend // whose recipe is Marks
}

// place chooses the recipe of one backend.
func (b *builder) place(to Backend) {
	switch to.Reach.Place {
	case Unknown:
		b.note(to, "this host has no route to it, so its replies cannot come back",
			"see ip route get "+to.Addr.Addr().String())
		return
	case Routed:
		message := fmt.Sprintf("it is behind the router %s: its replies come back only if they are routed to this host",
			to.Reach.Router)
		b.note(to, message, "connect the two hosts by a link or a tunnel, and see unproxy routes print --backend-host")
	}
	if b.recipe(to) == Rules {
		b.ruled = append(b.ruled, to)
		return
	}
	b.marked = append(b.marked, to)
}

// recipe returns the recipe of one backend and notes its side effects.
func (b *builder) recipe(to Backend) Recipe {
	place := to.Reach.Place
	// Linux finds no output route for a packet from 127.0.0.0/8, so the packet
	// filter never sees it (ip_route_output_key_hash_rcu).
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
	b.note(to, "rules cannot tell the gateway's connections to it from others, whose replies will be lost",
		"--recipe marks")
	return Rules
}

// rules adds the rules, and keeps their number low: above maxRules, backends on a
// link move to a set of the packet filter, and those on a loopback address of
// their own share a rule for all ports.
func (b *builder) rules() {
	if len(b.ruled) > maxRules && b.options.Recipe == Auto {
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
	if len(b.ruled) > maxRules {
		b.ruled = widen(b.ruled)
	}
	if n := len(b.ruled); n > maxRules {
		b.note(b.ruled[0], fmt.Sprintf("this host evaluates %d rules for every packet that it routes", n),
			"give the backends a loopback address of their own, such as 127.0.0.9, which needs a single rule")
	}
	for _, to := range b.ruled {
		b.rule(Rule{From: to.Addr, In: to.Reach.Device, Protocol: to.protocol(), Ports: to.Ports})
	}
	for _, to := range b.ruled {
		b.errors(to)
	}
}

// errors adds the rules for ICMP errors about a backend with rules of its own. Such
// an error is addressed to the client, and without it the gateway does not learn
// that a datagram or a connection attempt failed, or how large a packet may be.
//
// Of this host's own messages only "destination unreachable" is matched, so that
// it goes on answering pings. From a device every message of the backend, and of
// the router to it, is matched: a host that does not forward drops those to other
// addresses than its own, which table local has already delivered. If the host
// forwards, the packet filter selects the errors; see [Filter.Ruled].
func (b *builder) errors(to Backend) {
	r := Rule{From: to.Addr, In: to.Reach.Device, Protocol: "icmp"}
	unreachable := uint8(unreachable4)
	if to.isIPv6() {
		r.Protocol, unreachable = "ipv6-icmp", unreachable6
	}
	switch router := to.Reach.Router; {
	case to.Reach.Device == "lo":
		r.Type = unreachable
		b.rule(r)
	case to.Reach.Forwards:
	default:
		b.rule(r)
		if router.IsValid() && router.Is6() == to.isIPv6() {
			r.From = netip.PrefixFrom(router, router.BitLen())
			b.rule(r)
		}
	}
}

// widen merges the ports of backends on a loopback address of their own. It leaves
// 127.0.0.1 and ::1 alone: other services publish ports there, and their replies
// must not be diverted.
func widen(all []Backend) []Backend {
	shared := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	wide := slices.Clone(all)
	for i, to := range wide {
		if to.Reach.Place == Loopback && !slices.Contains(shared, to.Addr.Addr()) {
			wide[i].Ports = AllPorts
		}
	}
	return merge(wide)
}

// marks adds the packet filter table and the rules for marked packets.
func (b *builder) marks(redirects []Redirect) {
	f := &Filter{Mark: b.options.Mark, Owner: b.options.Owner, Redirects: slices.Clone(redirects)}
	for _, to := range b.marked {
		into, mark := &f.Links, f.linkMark()
		if to.Reach.Place == Local {
			into, mark = &f.Locals, f.localMark()
		}
		*into = append(*into, to)
		// The rule names the interface so that it does not match the
		// reverse-path lookup, which with src_valid_mark uses the mark, too, and
		// lo as the input interface (__fib_validate_source).
		b.rule(Rule{IPv6: to.isIPv6(), In: to.Reach.Device, Mark: mark})
	}
	for _, to := range b.ruled {
		if to.Reach.Device == "lo" || !to.UDP && !to.Reach.Forwards {
			continue
		}
		f.Ruled = append(f.Ruled, to)
		if to.Reach.Forwards {
			b.rule(Rule{IPv6: to.isIPv6(), In: to.Reach.Device, Mark: f.linkMark()})
		}
	}
	for _, v6 := range families {
		if slices.ContainsFunc(redirects, func(r Redirect) bool { return r.hasFamily(v6) }) {
			b.rule(Rule{IPv6: v6, In: "lo", Mark: f.redirectMark(), Table: mainTable}) // the reverse-path lookup
			b.rule(Rule{IPv6: v6, Mark: f.redirectMark(), Preference: b.options.Preference + 1})
		}
	}
	if len(f.Links)+len(f.Locals)+len(f.Ruled)+len(f.Redirects) > 0 {
		b.plan.Filter = f
	}
}

// rule adds a rule and the route that its lookup finds. Zero in Table or
// Preference stands for the plan's.
func (b *builder) rule(r Rule) {
	r.IPv6 = r.IPv6 || r.From.Addr().Is6()
	r.Table = cmp.Or(r.Table, b.options.Table)
	r.Preference = cmp.Or(r.Preference, b.options.Preference)
	r.Owner = b.options.Owner
	b.plan.Rules = appendNew(b.plan.Rules, r)
	b.plan.Routes = appendNew(b.plan.Routes, Route{IPv6: r.IPv6, Table: b.options.Table})
}

func (b *builder) note(about Backend, message, hint string) {
	b.plan.Notes = append(b.plan.Notes, Note{About: about.String(), Message: message, Hint: hint})
}

func appendNew[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

// merge sorts backends and joins adjacent ranges of ports: ports 21000 to 21999 of
// one server become one backend.
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

// contains reports whether b is a prefix with all ports that contains other. In
// merge's order such a prefix comes before other.
func (b Backend) contains(other Backend) bool {
	return b.Ports == AllPorts && b.UDP == other.UDP && b.Reach.Device == other.Reach.Device &&
		b.Addr.Bits() < other.Addr.Bits() && b.Addr.Contains(other.Addr.Addr())
}

// absorb extends b by other's ports if they are adjacent or overlap and all else
// is equal. It reports whether it did.
func (b *Backend) absorb(other Backend) bool {
	same := *b
	same.Ports = other.Ports
	if same != other || int(other.Ports.Low) > int(b.Ports.High)+1 {
		return false
	}
	b.Ports.High = max(b.Ports.High, other.Ports.High)
	return true
}

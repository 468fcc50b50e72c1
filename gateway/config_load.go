package gateway

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/settings"
)

// Source is a configuration in the words of an operator.
type Source struct {
	// Forwards are the SPECs of the flag --forward.
	Forwards []string
	// Settings are what holds for all forwards, by the names of [Settings],
	// and what holds for the process, by those of [ProcessSettings]. Names
	// that are neither are left alone.
	Settings Values
	// Descriptors is how many files the process may have open at once, from
	// which the limit on connections follows; 0 is unknown. Reserved is how
	// many of them others need, such as an admin endpoint.
	Descriptors, Reserved int
}

// ProcessSetting is one thing that can be set for the process as a whole.
type ProcessSetting struct {
	// Name is the flag without its dashes.
	Name string
	// Argument, Default and Meaning are as in [Setting].
	Argument, Default, Meaning string
	// Routes says that it is about the rules and routes of transparent mode.
	Routes bool

	set func(*Config, string) error
}

// ProcessSettings returns every setting of the process, in the order in which
// help lists them. The flags [MaxConnections] and [MaxFlows] are not among them:
// they are listed with the settings of forwards.
func ProcessSettings() []ProcessSetting {
	return []ProcessSetting{
		{Name: "loops", Argument: "N", Default: "CPUs", set: setLoops,
			Meaning: "event loops, each with a thread of its own"},
		{Name: maxWaiting, Argument: "N", Default: "half of --max-connections", set: setMaxWaiting,
			Meaning: "connections that wait for their header; beyond it the one that waits longest is reset; 0 is off"},
		{Name: "drain-delay", Argument: "D", Default: "0s", set: setDrainDelay,
			Meaning: "go on accepting for so long after SIGTERM"},
		{Name: "drain-timeout", Argument: "D", Default: "30s", set: setDrainTimeout,
			Meaning: "then let connections finish for so long"},
		{Name: selfTestInterval, Argument: "D", Default: "30s", set: setSelfTestInterval,
			Meaning: "transparent: how often backends' replies to clients are tested; 0 is off"},
		{Name: "reload-interval", Argument: "D", Default: "off", set: setReloadInterval,
			Meaning: "look so often whether trust files have changed, and reload"},
		{Name: "upgrade-timeout", Argument: "D", Default: "30s", set: setUpgradeTimeout,
			Meaning: "until the process that takes over at SIGUSR2 serves"},
		{Name: "route-table", Argument: "N", Default: "7700", set: setRouteTable, Routes: true,
			Meaning: "routing table in which everything is local"},
		{Name: "rule-preference", Argument: "N", Default: "7700", set: setRulePreference, Routes: true,
			Meaning: "place of the rules that lead there; two gateways of one host with the same backends take two"},
		{Name: "route-mark", Argument: "N", Default: "7700", set: setRouteMark, Routes: true,
			Meaning: "first of three marks that the packet filter uses: N, N+1 and N+2"},
		{Name: "recipe", Argument: "auto|rules|marks", Default: "auto", set: setRecipe, Routes: true,
			Meaning: "rules by address and port, marks by the packet filter, or what hits nothing else"},
	}
}

func setMaxWaiting(c *Config, v string) error {
	return count([]string{v}, &c.MaxWaiting)
}

func setReloadInterval(c *Config, v string) (err error) {
	c.ReloadInterval, err = settings.Duration(v, 100*time.Millisecond)
	return err
}

func setUpgradeTimeout(c *Config, v string) error {
	d, err := settings.Duration(v, 100*time.Millisecond)
	if err == nil && d == 0 {
		err = &settings.Error{Why: "leaves the new process no time", Instead: "30s"}
	}
	c.UpgradeTimeout = d
	return err
}

func setDrainDelay(c *Config, v string) (err error) {
	c.DrainDelay, err = settings.Duration(v, time.Millisecond)
	return err
}

// selfTestInterval is the setting that does nothing without a transparent forward.
const selfTestInterval = "self-test-interval"

// setSelfTestInterval keeps the tests from being a load on backends.
func setSelfTestInterval(c *Config, v string) (err error) {
	c.SelfTestInterval, err = settings.Duration(v, time.Millisecond)
	if err == nil && c.SelfTestInterval > 0 && c.SelfTestInterval < time.Second {
		err = &settings.Error{Why: "is less than a second", Instead: "1s"}
	}
	return err
}

func setDrainTimeout(c *Config, v string) (err error) {
	c.DrainTimeout, err = settings.Duration(v, time.Millisecond)
	return err
}

func setLoops(c *Config, v string) error {
	n, err := settings.Count(v, 1024)
	if err == nil && n == 0 {
		err = &settings.Error{Why: "leaves nobody to do the work", Instead: "1"}
	}
	c.Loops = int(n)
	return err
}

// Load makes a configuration of the operator's words: it reads the forwards,
// combines each with the settings that hold for all, reads the lists of
// addresses and validates the result. It opens nothing but those lists.
//
// All problems are found at once. The error joins them, each a [*Problem] or an
// error of package trust; with any there is no configuration. Warnings come in
// both cases.
func Load(src Source) (*Config, []Warning, error) {
	l := &loader{src: src, config: &Config{
		Loops:          runtime.GOMAXPROCS(0), // as many as a container may use, not as many as there are
		DrainTimeout:   30 * time.Second,
		UpgradeTimeout: 30 * time.Second,

		SelfTestInterval: 30 * time.Second,
	}}
	l.process()
	l.forwards()
	l.limits()
	if len(l.config.Forwards) > 0 || len(src.Forwards) == 0 {
		warnings, err := l.config.Validate()
		l.warnings = append(l.warnings, warnings...)
		l.errs = append(l.errs, err)
	}
	if err := errors.Join(l.errs...); err != nil {
		return nil, l.warnings, err
	}
	l.config.lists = l.lists.all
	return l.config, l.warnings, nil
}

// loader is a configuration in the making.
type loader struct {
	src      Source
	config   *Config
	lists    lists
	warnings []Warning
	errs     []error
}

// process takes in the settings of the process.
func (l *loader) process() {
	for _, s := range ProcessSettings() {
		values := l.src.Settings[s.Name]
		if len(values) == 0 {
			continue
		}
		if err := s.set(l.config, last(values)); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, last(values), err))
		}
	}
	l.limit(MaxConnections, &l.config.MaxConnections)
	l.limit(MaxFlows, &l.config.MaxFlows)
}

// limit takes in a limit on all forwards together.
func (l *loader) limit(name string, into *int) {
	values := l.src.Settings[name]
	if len(values) == 0 {
		return
	}
	if err := count(values, into); err != nil {
		l.errs = append(l.errs, FlagProblem(name, last(values), err))
	}
}

// forwards reads every forward and settles its settings.
func (l *loader) forwards() {
	common := newDraft()
	for _, s := range Settings() {
		values := l.src.Settings[s.Name]
		if len(values) == 0 || s.Name == MaxConnections || s.Name == MaxFlows {
			continue
		}
		common.given[s.Name] = true
		if err := s.take(&common, values); err != nil {
			l.errs = append(l.errs, FlagProblem(s.Name, atFault(values, err), err))
		}
	}
	common.nameLists(func(name string) string { return "--" + name })
	var drafts []draft
	for _, spec := range l.src.Forwards {
		f, err := ParseForward(spec)
		if err != nil {
			l.errs = append(l.errs, err)
			continue
		}
		drafts = append(drafts, l.forward(common, f))
	}
	separateFamilies(drafts)
	for i := range drafts {
		l.config.Forwards = append(l.config.Forwards, &drafts[i].forward)
	}
	l.idle(common, drafts)
	l.redirect(common, drafts)
}

// forward puts a forward's own settings over the common ones.
func (l *loader) forward(common draft, f *Forward) draft {
	d := common
	d.given = map[string]bool{}
	d.forward.Name, d.forward.Listeners, d.forward.Datagrams = f.Name, f.Listeners, f.Datagrams
	found := problems{prefix: fmt.Sprintf("--forward %q: ", shorten(f.Spec))}
	if f.Settings["trust"] != nil || f.Settings["trust-file"] != nil {
		// The two make one list: a forward that names its own peers must not
		// be open to the common ones as well.
		d.trust = list{}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Settings)) {
		found.setting(&d, name, f.Settings[name])
	}
	own := d.given
	if d.forward.Datagrams {
		d.forward.TProxy, d.forward.Redirect = false, nil // connections alone are handed over
	}
	d.nameLists(func(name string) string { return fmt.Sprintf("--forward %q: %s", shorten(f.Spec), name) })
	l.errs = append(l.errs, found.err())
	if d.forward.Transparent && !own["unknown"] && !common.given["unknown"] {
		d.forward.RejectUnknown = true
	}
	if !d.forward.TProxy && !own["redirect"] {
		d.forward.Redirect = nil // what is given for all is for those that can take it
	}
	warnings, err := l.lists.resolve(&d)
	l.warnings = append(l.warnings, warnings...)
	l.errs = append(l.errs, err)
	return d
}

// redirect looks whether what is redirected by a flag is handed to anybody.
func (l *loader) redirect(common draft, drafts []draft) {
	takes := func(d draft) bool { return d.forward.TProxy }
	if common.given["redirect"] && len(drafts) > 0 && !slices.ContainsFunc(drafts, takes) {
		l.errs = append(l.errs, &Problem{Message: "--redirect says what is handed to a tproxy listener, and there is none", Remedy: "--tproxy"})
	}
}

// setting takes in one key of a forward.
func (p *problems) setting(d *draft, name string, values []string) {
	s, ok := findSetting(name)
	if !ok {
		p.add(fmt.Sprintf("unknown key %q", shorten(name)), keyRemedy(name))
		return
	}
	if len(values) > 1 && !s.Repeatable {
		p.add(fmt.Sprintf("key %q is given %d times", name, len(values)), "give it once: ?"+name+"="+shorten(last(values)))
		return
	}
	d.given[name] = true
	if err := s.take(d, values); err != nil {
		p.add(fmt.Sprintf("%s %q %v", name, shorten(atFault(values, err)), err), remedy(err, "?"+name+"="))
	}
}

// keyRemedy guesses at what an unknown key was meant to be.
func keyRemedy(name string) string {
	for _, s := range ProcessSettings() {
		if s.Name == name {
			return "it holds for the whole process: --" + name + " " + s.Argument
		}
	}
	var names []string
	for _, s := range Settings() {
		names = append(names, s.Name)
	}
	if near := settings.Nearest(name, names); near != "" {
		return "did you mean ?" + near + "?"
	}
	return "the keys are the flags for connections without their dashes, see unproxy --help"
}

// take puts values into d. An empty value is refused where it cannot be meant.
func (s Setting) take(d *draft, values []string) error {
	if !s.Switch && slices.Contains(values, "") {
		return &settings.Error{Why: "is no value; it takes " + s.Argument}
	}
	return s.set(d, values)
}

// atFault returns the one of several values that err is about.
func atFault(values []string, err error) string {
	if e, ok := errors.AsType[*settings.Error](err); ok && e.Value != "" {
		return e.Value
	}
	return last(values)
}

// FlagProblem is the problem with the value of a flag; err is what package
// settings says of it.
func FlagProblem(name, value string, err error) error {
	return &Problem{
		Message: fmt.Sprintf("--%s %q %v", name, shorten(value), err),
		Remedy:  remedy(err, "--"+name+" "),
	}
}

// remedy says what to write instead of a value; prefix goes before it.
func remedy(err error, prefix string) string {
	var e *settings.Error
	if !errors.As(err, &e) || e.Instead == "" {
		return ""
	}
	return "did you mean " + prefix + e.Instead + "?"
}

// maxWaiting is the setting of how many connections may wait for a header.
const maxWaiting = "max-waiting"

// limits settles how many connections there may be, and how many of them may
// wait for their header: half, so that those never keep everybody else out.
func (l *loader) limits() {
	l.connections()
	most, given := l.config.MaxConnections, len(l.src.Settings[maxWaiting]) > 0
	if !given {
		l.config.MaxWaiting = (most + 1) / 2
	}
	if given && most > 0 && l.config.MaxWaiting >= most {
		l.warn(fmt.Sprintf("--max-waiting %d is no less than --max-connections, %d: connections that send no header can keep all others out", l.config.MaxWaiting, most),
			fmt.Sprintf("--max-waiting %d", most/2))
	}
}

// connections settles how many connections and flows there may be. Where a
// process has both, each kind may have half of its descriptors.
func (l *loader) connections() {
	if l.src.Descriptors == 0 {
		return
	}
	streams, datagrams := 0, 0
	for _, f := range l.config.Forwards {
		if f.Datagrams {
			datagrams += len(f.Listeners) * l.config.Loops
		} else {
			streams += len(f.Listeners)
		}
	}
	free := l.src.Descriptors - l.src.Reserved - streams - datagrams - reserve(l.src.Descriptors, l.config.Loops)
	if free < 2 {
		l.errs = append(l.errs, &Problem{
			Message: fmt.Sprintf("%d listeners leave no file descriptor for a connection, the process may have %d", streams+datagrams, l.src.Descriptors),
			Remedy:  moreDescriptors,
		})
		return
	}
	share := free
	if streams > 0 && datagrams > 0 {
		share = max(2, free/2)
	}
	if datagrams == 0 || streams > 0 {
		l.settle(MaxConnections, share/2, &l.config.MaxConnections)
	}
	if datagrams > 0 {
		l.settle(MaxFlows, min(share, mostFlows), &l.config.MaxFlows)
	}
}

const (
	moreDescriptors = "raise the limit, LimitNOFILE=1048576 in a systemd unit, else ulimit -n"
	// mostFlows is how many flows there may be unless somebody says so. Each
	// takes a few kilobytes of the kernel's memory and of the gateway's.
	mostFlows = 100_000
)

// settle sets a limit to what the descriptors allow, or compares what was given
// with that.
func (l *loader) settle(name string, allowed int, limit *int) {
	if len(l.src.Settings[name]) == 0 {
		*limit = allowed
		return
	}
	if *limit > allowed {
		l.warnings = append(l.warnings, Warning{
			Message: fmt.Sprintf("--%s %d is more than %d file descriptors allow, about %d", name, *limit, l.src.Descriptors, allowed),
			Remedy:  moreDescriptors,
			About:   AboutDescriptors,
		})
	}
}

// reserve is how many descriptors are kept back from connections: an eighth
// for the pipes of streams in bulk, and a few for the loops, the log, lists
// that are read and names that are looked up.
func reserve(descriptors, loops int) int {
	return descriptors/8 + 32 + 4*loops
}

// idle warns of settings that were given and do nothing.
func (l *loader) idle(common draft, drafts []draft) {
	for _, r := range idleRules() {
		used := false
		for i := range drafts {
			d := &drafts[i]
			applies := r.applies(&d.forward)
			used = used || applies
			if d.given[r.name] && !applies {
				l.warn("forward "+d.forward.Listeners[0].Name+": "+r.name+" does nothing "+r.without, "")
			}
		}
		if common.given[r.name] && !used && len(drafts) > 0 {
			l.warn("--"+r.name+" does nothing "+r.without, "")
		}
	}
	spoofs := slices.ContainsFunc(drafts, func(d draft) bool { return d.forward.Transparent })
	if len(l.src.Settings[selfTestInterval]) > 0 && !spoofs && len(drafts) > 0 {
		l.warn("--"+selfTestInterval+" does nothing without --transparent on", "")
	}
}

func (l *loader) warn(message, remedy string) {
	l.warnings = append(l.warnings, Warning{Message: message, Remedy: remedy})
}

// idleRule says where a setting has an effect.
type idleRule struct {
	name    string
	without string
	applies func(*engine.Forward) bool
}

func idleRules() []idleRule {
	rules := []idleRule{
		{"allow-destination", "without the backend \"header\"", leadsAnywhere},
		{"socket-mode", "without a unix listener", hasUnixListener},
		{"require-checksum", "where only v1 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV2 }},
		{"max-header", "where only v1 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV2 }},
		{"v1-ipv4-in-tcp6", "where only v2 is accepted", func(f *engine.Forward) bool { return !f.Header.RefuseV1 }},
	}
	for _, s := range Settings() {
		if s.transparentOnly {
			rules = append(rules, idleRule{s.Name, "without --transparent on", func(f *engine.Forward) bool { return f.Transparent }})
		}
		if s.Group == GroupDatagram {
			rules = append(rules, idleRule{s.Name, "without a udp:// forward", func(f *engine.Forward) bool { return f.Datagrams }})
		}
		if s.streamOnly {
			rules = append(rules, idleRule{s.Name, "for udp:// forwards", func(f *engine.Forward) bool { return !f.Datagrams }})
		}
		if s.headerOnly {
			rules = append(rules, idleRule{s.Name, "with the headers of --udp-header spp", hasProxyHeaders})
		}
	}
	return rules
}

func hasProxyHeaders(f *engine.Forward) bool {
	return !f.Datagrams || f.DatagramHeader != engine.SimpleProxy
}

func leadsAnywhere(f *engine.Forward) bool {
	return anyBackend(f, func(b engine.Backend) bool { return b.FromHeader })
}

func hasUnixListener(f *engine.Forward) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return l.Endpoint.IsUnix() })
}

func anyBackend(f *engine.Forward, match func(engine.Backend) bool) bool {
	return slices.ContainsFunc(f.Listeners, func(l engine.Listener) bool { return slices.ContainsFunc(l.Backends, match) })
}

// separateFamilies makes a listener that was written [::]:PORT one of IPv6
// alone where another one takes the same port of IPv4: it would otherwise take
// that one's connections. One that was written :PORT stays as it is, since
// both families were asked for.
func separateFamilies(drafts []draft) {
	type service struct {
		datagrams bool
		port      uint16
	}
	taken := map[service]bool{}
	each(drafts, func(f *engine.Forward, l *engine.Listener) {
		if a := l.Endpoint.Addr; a.IsValid() && a.Addr().Is4() {
			taken[service{f.Datagrams, a.Port()}] = true
		}
	})
	each(drafts, func(f *engine.Forward, l *engine.Listener) {
		port, name := l.Endpoint.Addr.Port(), strings.TrimPrefix(l.Name, "udp://")
		if l.DualStack && strings.HasPrefix(name, "[") && port != 0 && taken[service{f.Datagrams, port}] {
			l.DualStack = false
		}
	})
}

func each(drafts []draft, do func(*engine.Forward, *engine.Listener)) {
	for i := range drafts {
		f := &drafts[i].forward
		for j := range f.Listeners {
			do(f, &f.Listeners[j])
		}
	}
}

package command

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/trust"
)

// trustCommand returns "unproxy trust", which evaluates trust rules without a
// running gateway.
func trustCommand(g *given) *cli.Command {
	rules := func() []cli.Flag { return g.pick("trust", "trust-file", config.EnvFileFlag) }
	return &cli.Command{
		Name: "trust", Usage: "show which peers the trust rules admit",
		Description: "Example:\n  unproxy trust explain --trust cloudflare 173.245.48.9",
		Subcommands: []*cli.Command{{
			Name: "list", Usage: "print every rule with its origin, and warnings",
			Description: "Example:\n  unproxy trust list --trust cloudflare --trust-file /etc/unproxy/trust.txt",
			Flags:       append(g.pick("trust", "trust-file", "direct", config.EnvFileFlag), usage.JSONFlag()),
			Action:      func(ctx *cli.Context) error { return trustList(ctx, g) },
		}, {
			Name: "explain", Usage: "say whether an address is trusted, and by which rule",
			ArgsUsage: "ADDRESS", Description: trustExplainHelp,
			Flags: append(rules(),
				&cli.StringFlag{Name: "address", Usage: "`IP` the address of the peer, instead of the argument"},
				usage.JSONFlag()),
			Action: func(ctx *cli.Context) error { return trustExplain(ctx, g) },
		}, {
			Name: "presets", Usage: "print the presets, or the prefixes of one as a trust file",
			ArgsUsage: "[NAME]", Description: trustPresetsHelp,
			Flags:  []cli.Flag{usage.JSONFlag()},
			Action: trustPresets,
		}},
	}
}

const (
	trustExplainHelp = `Exit codes: 0 trusted, 1 not trusted, 2 usage error.

Example:
  unproxy trust explain --trust cloudflare --trust 10.0.0.0/8 173.245.48.9`
	trustPresetsHelp = `Examples:
  unproxy trust presets
  unproxy trust presets cloudflare > /etc/unproxy/trust.txt`
)

// loadTrust loads the rules that flags or variables give.
func loadTrust(g *given) (*trust.Set, []trust.Warning, error) {
	if _, err := g.environment(os.Environ()); err != nil {
		return nil, nil, err
	}
	source := trust.Source{
		Rules: g.values["trust"], Files: g.values["trust-file"], Flag: "--trust", Nearest: value.Nearest,
	}
	set, warnings, err := trust.Load(source)
	if errors.Is(err, trust.ErrNoRule) {
		return nil, nil, usage.Errorf("%v", err).
			WithHint("give the rules of the gateway: --trust 10.0.0.0/8 or --trust-file PATH")
	}
	return set, warnings, err
}

// trustList prints every rule and every warning.
func trustList(c *cli.Context, g *given) error {
	set, warnings, err := loadTrust(g)
	if err != nil {
		return err
	}
	if len(g.values["direct"]) > 0 {
		direct, _, err := trust.Load(trust.Source{Rules: g.values["direct"], Flag: "--direct", Nearest: value.Nearest})
		if err != nil {
			return err
		}
		warnings = slices.DeleteFunc(warnings, func(w trust.Warning) bool { return w.Redundant })
		warnings = append(warnings, set.Redundant(direct)...)
	}
	if c.Bool("json") {
		return usage.PrintJSON(c.App.Writer, struct {
			Rules    []jsonRule    `json:"rules"`
			Warnings []jsonWarning `json:"warnings"`
		}{jsonRules(set.Rules()), jsonWarnings(warnings)})
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PREFIX\tRULE\tORIGIN\tNOTE")
	for _, r := range set.Rules() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Prefix, r.Text, r.Origin, r.Note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, warning := range warnings {
		fmt.Fprintf(c.App.Writer, "warning: %s\n", warning)
	}
	return nil
}

// trustExplain says whether one address is trusted, and why.
func trustExplain(c *cli.Context, g *given) error {
	a, err := explainedAddress(c, "unproxy trust explain --trust RULE ADDRESS")
	if err != nil {
		return err
	}
	set, _, err := loadTrust(g)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = usage.PrintJSON(c.App.Writer, explainJSON(set, a))
	} else {
		_, err = fmt.Fprintln(c.App.Writer, explanation(set, a))
	}
	if err == nil && !set.Contains(a) {
		return usage.Reported(usage.ExitFailure)
	}
	return err
}

// explainedAddress returns the address to explain. synopsis is the hint if there is none.
func explainedAddress(c *cli.Context, synopsis string) (netip.Addr, error) {
	text, err := usage.Argument(c, "address")
	if err != nil {
		return netip.Addr{}, err
	}
	if c.IsSet("address") && text != "" {
		return netip.Addr{}, usage.Errorf("more than one address: --address %s and %s", c.String("address"), text).
			WithHint("give one")
	}
	if c.IsSet("address") {
		text = c.String("address")
	}
	if text == "" {
		return netip.Addr{}, usage.Errorf("no address").WithHint("write " + synopsis)
	}
	a, err := netip.ParseAddr(text)
	if err == nil {
		return a, nil
	}
	hint := "write an IPv4 or IPv6 address, such as 173.245.48.9"
	if p, err := netip.ParseAddrPort(text); err == nil {
		hint = "write " + p.Addr().String() + ": rules are about the address alone"
	}
	return netip.Addr{}, usage.Errorf("%q is not an address", text).WithHint(hint)
}

// explanation says in one line whether a is trusted.
func explanation(set *trust.Set, a netip.Addr) string {
	if rule, ok := set.Lookup(a); ok {
		return "trusted: rule " + ruleText(rule)
	}
	if a.Zone() != "" {
		return "not trusted: an address with a zone never is"
	}
	nearest, ok := set.Nearest(a)
	if !ok {
		return "not trusted; no rule has its address family"
	}
	return fmt.Sprintf("not trusted; nearest rule %s, %d of %d bits match",
		ruleText(nearest), sameBits(nearest.Prefix, a.Unmap()), nearest.Prefix.Bits())
}

// ruleText names a rule with its prefix and origin.
func ruleText(r trust.Rule) string {
	from := []string{r.Prefix.String(), r.Note, r.Origin}
	if r.Prefix.String() == r.Text {
		from[0] = ""
	}
	var parts []string
	for _, s := range from {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return fmt.Sprintf("%q (%s)", r.Text, strings.Join(parts, ", "))
}

// sameBits returns the number of leading bits of p that match a. Both have the same
// address family.
func sameBits(p netip.Prefix, a netip.Addr) int {
	n := p.Bits()
	for n > 0 && !netip.PrefixFrom(p.Addr(), n).Contains(a) {
		n--
	}
	return n
}

// trustPresets prints the presets, or the prefixes of one.
func trustPresets(c *cli.Context) error {
	name, err := usage.Argument(c, "name of a preset")
	if err != nil {
		return err
	}
	if name != "" {
		return trustPreset(c, name)
	}
	if c.Bool("json") {
		return usage.PrintJSON(c.App.Writer, jsonPresets(trust.Presets()))
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDATE\tPREFIXES\tSOURCE\tWARNING")
	for _, p := range trust.Presets() {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", p.Name, p.Date, len(p.Prefixes), p.Source, p.Warning)
	}
	return w.Flush()
}

// trustPreset prints one preset as a trust file.
func trustPreset(c *cli.Context, name string) error {
	p, ok := trust.FindPreset(name)
	if !ok {
		var names []string
		for _, p := range trust.Presets() {
			names = append(names, p.Name)
		}
		return usage.Errorf("unknown preset %q", name).WithHint("one of " + strings.Join(names, ", "))
	}
	if c.Bool("json") {
		return usage.PrintJSON(c.App.Writer, jsonPresets([]trust.Preset{p})[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, of %s\n# source: %s\n# status: %s\n", p.Name, p.Date, p.Source, p.Status)
	if p.Warning != "" {
		fmt.Fprintf(&b, "# warning: %s\n", p.Warning)
	}
	for _, prefix := range p.Prefixes {
		fmt.Fprintln(&b, prefix)
	}
	_, err := io.WriteString(c.App.Writer, b.String())
	return err
}

package command

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/trust"
)

// trustCommand is "unproxy trust": what the trust rules come to, asked without
// a daemon.
func trustCommand() *cli.Command {
	return &cli.Command{
		Name:  "trust",
		Usage: "show whom the trust rules admit",
		Subcommands: []*cli.Command{{
			Name:   "list",
			Usage:  "print every rule, where it was given, and what is doubtful about it",
			Flags:  append(trustFlags(), usage.JSONFlag()),
			Action: trustList,
		}, {
			Name:      "explain",
			Usage:     "say whether an address is trusted and by which rule; exit code 1 if it is not",
			ArgsUsage: "ADDRESS",
			Flags:     append(trustFlags(), &cli.StringFlag{Name: "address", Usage: "the address of the peer, in the place of an argument"}, usage.JSONFlag()),
			Action:    trustExplain,
		}, {
			Name:      "presets",
			Usage:     "print the presets, or the prefixes of one as a trust file",
			ArgsUsage: "[NAME]",
			Flags:     []cli.Flag{usage.JSONFlag()},
			Action:    trustPresets,
		}},
	}
}

// trustFlags are the flags with which the daemon is given its rules.
func trustFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "trust", Usage: "a rule: a prefix, an address, a preset, a template or any; repeatable", EnvVars: []string{"UNPROXY_TRUST"}},
		&cli.StringSliceFlag{Name: "trust-file", Usage: "a file of rules, one a line; repeatable", EnvVars: []string{"UNPROXY_TRUST_FILE"}},
	}
}

// loadTrust loads the rules that c's flags give.
func loadTrust(c *cli.Context) (*trust.Set, []trust.Warning, error) {
	set, warnings, err := trust.Load(trust.Source{Rules: c.StringSlice("trust"), Files: c.StringSlice("trust-file"), Flag: "--trust"})
	if errors.Is(err, trust.ErrNoRule) {
		return nil, nil, usage.Errorf("%s", err.Error()).WithHint("give the rules as the daemon has them: --trust 10.0.0.0/8 or --trust-file PATH")
	}
	return set, warnings, err
}

// trustList prints every rule and every warning.
func trustList(c *cli.Context) error {
	set, warnings, err := loadTrust(c)
	if err != nil {
		return err
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
func trustExplain(c *cli.Context) error {
	a, err := explained(c)
	if err != nil {
		return err
	}
	set, _, err := loadTrust(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = usage.PrintJSON(c.App.Writer, jsonVerdictOf(set, a))
	} else {
		_, err = fmt.Fprintln(c.App.Writer, verdict(set, a))
	}
	if err == nil && !set.Contains(a) {
		return usage.Reported(usage.ExitFailure)
	}
	return err
}

// explained returns the address that is asked about.
func explained(c *cli.Context) (netip.Addr, error) {
	text, err := usage.Argument(c, "address")
	if err != nil {
		return netip.Addr{}, err
	}
	if c.IsSet("address") && text != "" {
		return netip.Addr{}, usage.Errorf("two addresses are given: --address %s and %s", c.String("address"), text).WithHint("give one")
	}
	if c.IsSet("address") {
		text = c.String("address")
	}
	if text == "" {
		return netip.Addr{}, usage.Errorf("no address is given").WithHint("write unproxy trust explain --trust RULE ADDRESS")
	}
	a, err := netip.ParseAddr(text)
	if err == nil {
		return a, nil
	}
	hint := "write an IPv4 or IPv6 address, such as 173.245.48.9"
	if p, err := netip.ParseAddrPort(text); err == nil {
		hint = "write " + p.Addr().String() + ": trust goes by address alone"
	}
	return netip.Addr{}, usage.Errorf("%q is not an address", text).WithHint(hint)
}

// verdict says in a line whether a is trusted.
func verdict(set *trust.Set, a netip.Addr) string {
	if rule, ok := set.Lookup(a); ok {
		return "trusted: rule " + ruleText(rule)
	}
	if a.Zone() != "" {
		return "not trusted: an address with a zone never is"
	}
	nearest, ok := set.Nearest(a)
	if !ok {
		return "not trusted; there is no rule for its address family"
	}
	return fmt.Sprintf("not trusted; nearest rule %s, of whose %d bits the first %d are the same",
		ruleText(nearest), nearest.Prefix.Bits(), sameBits(nearest.Prefix, a.Unmap()))
}

// ruleText names a rule, its prefix and where it comes from.
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

// sameBits returns how many of p's leading bits a has, which is of p's family.
func sameBits(p netip.Prefix, a netip.Addr) int {
	n := p.Bits()
	for n > 0 && !netip.PrefixFrom(p.Addr(), n).Contains(a) {
		n--
	}
	return n
}

// trustPresets prints all presets, or the prefixes of one.
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

// trustPreset prints one preset in the form of a trust file.
func trustPreset(c *cli.Context, name string) error {
	p, ok := trust.FindPreset(name)
	if !ok {
		var names []string
		for _, p := range trust.Presets() {
			names = append(names, p.Name)
		}
		return usage.Errorf("there is no preset %q", name).WithHint("one of " + strings.Join(names, ", "))
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

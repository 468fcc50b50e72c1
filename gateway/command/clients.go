package command

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/clients"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/transparent"
	"unproxy/trust"
)

const clientsExplainHelp = `Evaluates the rules as the gateway does. It does not know the bans of a running gateway,
which unproxy bans lists.

Exit codes: 0 served, 1 not served, 2 usage error.

Example:
  unproxy clients explain --deny-client 203.0.113.0/24 --allow-client any 203.0.113.9`

// clientsCommand returns "unproxy clients", which evaluates rules about clients without a
// running gateway.
func clientsCommand(g *given) *cli.Command {
	flags := func() []cli.Flag {
		return append(g.pick("allow-client", "allow-client-file", "deny-client", "deny-client-file",
			config.EnvFileFlag), usage.JSONFlag())
	}
	return &cli.Command{
		Name: "clients", Usage: "show which clients the rules serve",
		Description: "Example:\n  unproxy clients explain --deny-client 203.0.113.0/24 203.0.113.9",
		Subcommands: []*cli.Command{{
			Name: "list", Usage: "print every rule with its origin",
			Description: "Example:\n  unproxy clients list --deny-client-file /etc/unproxy/deny.txt",
			Flags:       flags(),
			Action:      func(ctx *cli.Context) error { return clientsList(ctx, g) },
		}, {
			Name: "explain", Usage: "say whether a client is served, and by which rule",
			ArgsUsage: "ADDRESS", Description: clientsExplainHelp,
			Flags: append(flags(),
				&cli.StringFlag{Name: "address", Usage: "`IP` the address of the client, instead of the argument"}),
			Action: func(ctx *cli.Context) error { return clientsExplain(ctx, g) },
		}},
	}
}

// clientRules are the rules about clients; a nil set was not given.
type clientRules struct{ allow, deny *trust.Set }

// loadClients loads the rules that flags or variables give.
func loadClients(g *given) (all clientRules, err error) {
	if _, err := g.environment(os.Environ()); err != nil {
		return all, err
	}
	allow, err1 := g.clientSet("allow-client", false)
	deny, err2 := g.clientSet("deny-client", true)
	if err := errors.Join(err1, err2); err != nil {
		return all, err
	}
	if allow == nil && deny == nil {
		return all, usage.Errorf("no rule about clients given").
			WithHint("give the rules of the gateway: --deny-client 203.0.113.0/24 or --deny-client-file PATH")
	}
	return clientRules{allow, deny}, nil
}

// clientSet loads one list, nil if it was not given.
func (g *given) clientSet(name string, allowEmpty bool) (*trust.Set, error) {
	set, _, err := trust.Load(trust.Source{
		Rules: g.values[name], Files: g.values[name+"-file"], Flag: "--" + name, Nearest: value.Nearest, AllowEmpty: allowEmpty,
	})
	if errors.Is(err, trust.ErrNoRule) {
		return nil, nil
	}
	return set, err
}

// clientsList prints every rule.
func clientsList(c *cli.Context, g *given) error {
	all, err := loadClients(g)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return usage.PrintJSON(c.App.Writer, struct {
			Allow []jsonRule `json:"allow"`
			Deny  []jsonRule `json:"deny"`
		}{jsonRules(all.allow.Rules()), jsonRules(all.deny.Rules())})
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ACTION\tPREFIX\tRULE\tORIGIN\tNOTE")
	for _, list := range []struct {
		action string
		set    *trust.Set
	}{{"deny", all.deny}, {"allow", all.allow}} {
		for _, r := range list.set.Rules() {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", list.action, r.Prefix, r.Text, r.Origin, r.Note)
		}
	}
	return w.Flush()
}

// jsonClient says whether a client is served, in JSON output.
type jsonClient struct {
	Address netip.Addr `json:"address"`
	Served  bool       `json:"served"`
	Rule    *jsonRule  `json:"rule,omitempty"`
	Nearest *jsonRule  `json:"nearest,omitempty"`
}

// clientsExplain says whether one client is served, and why.
func clientsExplain(c *cli.Context, g *given) error {
	a, err := explainedAddress(c, "unproxy clients explain --deny-client RULE ADDRESS")
	if err != nil {
		return err
	}
	all, err := loadClients(g)
	if err != nil {
		return err
	}
	answer, text := all.explain(a)
	if c.Bool("json") {
		err = usage.PrintJSON(c.App.Writer, answer)
	} else {
		_, err = fmt.Fprintln(c.App.Writer, text)
	}
	if err == nil && !answer.Served {
		return usage.Reported(usage.ExitFailure)
	}
	return err
}

// explain evaluates the rules as the gateway does, and names the one that decides.
func (all clientRules) explain(a netip.Addr) (jsonClient, string) {
	answer, a := jsonClient{Address: a}, a.Unmap().WithZone("")
	f := forward.Forward{}
	if all.allow != nil {
		f.AllowClient = all.allow
	}
	if all.deny != nil {
		f.DenyClient = all.deny
	}
	outcome, reason := clients.New(&f, nil).Check(a, 0, 0)
	answer.Served = outcome == record.OK
	set, verb := all.deny, "not served: deny rule "
	switch {
	case answer.Served && all.allow == nil:
		return answer, "served: no rule denies it"
	case answer.Served:
		set, verb = all.allow, "served: allow rule "
	case reason == clients.ReasonAllow:
		nearest, ok := all.allow.Nearest(a)
		if !ok {
			return answer, "not served: no allow rule has its address family"
		}
		answer.Nearest = &jsonRules([]trust.Rule{nearest})[0]
		return answer, fmt.Sprintf("not served: no allow rule holds it; nearest rule %s, %d of %d bits match",
			ruleText(nearest), sameBits(nearest.Prefix, a), nearest.Prefix.Bits())
	}
	rule, inside := deciding(set, a)
	answer.Rule = &jsonRules([]trust.Rule{rule})[0]
	text := verb + ruleText(rule)
	if inside.IsValid() {
		text += ", which holds the IPv4 address " + inside.String() + " in it"
	}
	return answer, text
}

// deciding returns the rule of a set that holds a client, or an IPv4 address inside its
// IPv6 address, which it returns, too.
func deciding(set *trust.Set, client netip.Addr) (rule trust.Rule, inside netip.Addr) {
	if rule, ok := set.Lookup(client); ok {
		return rule, inside
	}
	transparent.Embeds(client, func(v4 netip.Addr) (found bool) {
		if rule, found = set.Lookup(v4); found {
			inside = v4
		}
		return found
	})
	return rule, inside
}

package toa

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
	"unproxy/transparent/toa/attach"
)

// jsonStatus is the output of "toa status --json". docs/json.md describes it.
type jsonStatus struct {
	Schema      int              `json:"schema"`
	Attachments []jsonAttachment `json:"attachments"`
}

type jsonAttachment struct {
	Role    string      `json:"role"`
	Cgroup  string      `json:"cgroup"`
	Missing []string    `json:"missing"`
	Others  []jsonOther `json:"others"`
	Server  *jsonServer `json:"server,omitempty"`
}

type jsonOther struct {
	Name string `json:"name"`
	Hook string `json:"hook"`
}

type jsonServer struct {
	From      []string          `json:"from"`
	Ports     []uint16          `json:"ports"`
	Legacy    bool              `json:"legacy"`
	Counters  map[string]uint64 `json:"counters"`
	Covered   int               `json:"listeners_covered"`
	Uncovered []uint16          `json:"listeners_uncovered"`
}

// runStatus prints what is attached to a cgroup and below it, by default anywhere.
func runStatus(ctx *cli.Context) error {
	cgroup, err := cgroupOf(ctx)
	if err != nil {
		return err
	}
	all, err := attach.List(cgroup)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return usage.PrintJSON(ctx.App.Writer, jsonOf(all))
	}
	if len(all) == 0 {
		printf(ctx.App.Writer, "nothing is attached to %s or below it\n", cgroup)
	}
	for _, a := range all {
		printAttachment(ctx.App.Writer, a)
	}
	return nil
}

func jsonOf(all []attach.Attachment) jsonStatus {
	s := jsonStatus{Schema: 1, Attachments: []jsonAttachment{}}
	for _, a := range all {
		j := jsonAttachment{Role: a.Role.String(), Cgroup: a.Cgroup, Missing: append([]string{}, a.Missing...), Others: []jsonOther{}}
		for _, o := range a.Others {
			j.Others = append(j.Others, jsonOther(o))
		}
		if a.Role == attach.Server {
			j.Server = jsonServerOf(a)
		}
		s.Attachments = append(s.Attachments, j)
	}
	return s
}

func jsonServerOf(a attach.Attachment) *jsonServer {
	l := a.Listeners()
	s := &jsonServer{
		From: []string{}, Ports: append([]uint16{}, a.Ports...), Legacy: a.Legacy, Counters: map[string]uint64{},
		Covered: l.Covered, Uncovered: append([]uint16{}, l.Uncovered...),
	}
	for _, p := range a.From {
		s.From = append(s.From, p.String())
	}
	for _, c := range a.Counters {
		s.Counters[c.Name] = c.Value
	}
	return s
}

func printAttachment(w io.Writer, a attach.Attachment) {
	printf(w, "%s: %s\n", a.Role, a.Cgroup)
	row := func(name, text string) {
		if text != "" {
			printf(w, "  %-12s%s\n", name, text)
		}
	}
	row("missing", strings.Join(a.Missing, ", "))
	row("also there", otherWords(a.Others))
	if a.Role != attach.Server {
		return
	}
	row("from", prefixWords(a.From))
	row("port", portWords(a.Ports))
	row("legacy", map[bool]string{true: "options of kernel modules are taken"}[a.Legacy])
	row("listeners", listenerWords(a.Listeners()))
	for _, c := range a.Counters {
		row(strings.ReplaceAll(c.Name, "dropped_", "- "), fmt.Sprint(c.Value))
	}
}

func listenerWords(l attach.Listeners) string {
	words := fmt.Sprintf("%d covered", l.Covered)
	if len(l.Uncovered) > 0 {
		words += "; restart the servers on port " + portWords(l.Uncovered)
	}
	if l.Err != nil {
		words += fmt.Sprintf(" (%v)", l.Err)
	}
	return words
}

func otherWords(all []attach.Other) string {
	var words []string
	for _, o := range all {
		words = append(words, fmt.Sprintf("%q at %s", o.Name, o.Hook))
	}
	return strings.Join(words, ", ")
}

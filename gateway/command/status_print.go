package command

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"unproxy/gateway/admin"
	"unproxy/gateway/config/value"
	"unproxy/gateway/doctor"
)

// listed limits the number of problems that are written; the others are counted.
type listed struct{ findings, refusals int }

// wholeStatus is the limit for a single printout, onScreen that for a screen, where the
// forwards must remain visible below the problems.
var (
	wholeStatus = listed{findings: 100, refusals: 10}
	onScreen    = listed{findings: 3, refusals: 3}
)

// writeStatus writes a status as text, problems first. If connections is nil, it omits
// the list of connections.
func writeStatus(w io.Writer, s *admin.Status, connections *admin.Connections, most listed) {
	fmt.Fprintf(w, "unproxy %s, process %d, up %s, %s\n", s.Version.Version, s.PID, since(s.UptimeSeconds), readyWords(s))
	limit := "no limit"
	if s.Limit > 0 {
		limit = fmt.Sprintf("at most %d", s.Limit)
	}
	loops := strings.Trim(fmt.Sprint(s.Loops), "[]")
	fmt.Fprintf(w, "%s (%s), by loop: %s\n", value.Plural(s.Active, "connection"), limit, loops)
	writeHoldings(w, &s.Holdings)
	if s.Sandbox != nil {
		fmt.Fprintf(w, "sandbox %s: %s\n", s.Sandbox.Mode, s.Sandbox)
	}
	if s.LogDropped > 0 {
		fmt.Fprintf(w, "%d log lines were lost\n", s.LogDropped)
	}
	writeDegraded(w, s.Forwards, most.findings)
	writeFindings(w, s.Findings, most.findings)
	writeBackendsDown(w, s, most.findings)
	writeRefusals(w, s, most.refusals)
	writeForwards(w, s.Forwards)
	if connections != nil {
		writeConnections(w, connections)
	}
	writeTrust(w, s.Trust)
	writeClients(w, s)
}

// writeHoldings writes what connections hold without using it, if there is any.
func writeHoldings(w io.Writer, h *admin.HoldingsStatus) {
	if h.Blocked+h.HalfClosed+h.Idle == 0 && h.BufferedBytes == 0 {
		return
	}
	fmt.Fprintf(w, "%d with a slow reader, %d half-closed, %d idle; %s buffered", h.Blocked, h.HalfClosed, h.Idle,
		size(float64(h.BufferedBytes)))
	if h.BufferLimit > 0 {
		fmt.Fprintf(w, " (at most %s)", size(float64(h.BufferLimit)))
	}
	fmt.Fprintf(w, ", %s in %s\n", size(float64(h.PipedBytes)), value.Plural(h.Pipes, "pipe"))
}

// writeFindings writes the problems that the doctor found on the gateway's host.
// It skips a list that it cannot decode, of a gateway of another version.
func writeFindings(w io.Writer, list json.RawMessage, most int) {
	var all []struct {
		Component, Target, Status, Detail string
		Action                            []string
	}
	if json.Unmarshal(list, &all) != nil {
		return
	}
	var b strings.Builder
	n := 0
	for _, f := range all {
		if f.Status == doctor.OK.String() {
			continue
		}
		if n++; n > most {
			continue
		}
		fmt.Fprintf(&b, "  %s  %s %s: %s\n", f.Status, f.Component, f.Target, value.OneLine(f.Detail))
		for _, line := range f.Action {
			fmt.Fprintf(&b, "    %s\n", strings.ReplaceAll(line, "\n", "\n    "))
		}
	}
	if n > most {
		fmt.Fprintf(&b, "  and %d more, see unproxy doctor\n", n-most)
	}
	if n > 0 {
		fmt.Fprintf(w, "\nThis host\n%s", b.String())
	}
}

// writeBackendsDown writes the backends that are down, most of them at most.
func writeBackendsDown(w io.Writer, s *admin.Status, most int) {
	var all []string
	down := 0
	for i := range s.Forwards {
		f := &s.Forwards[i]
		down += f.BackendsDown
		for _, b := range f.Backends {
			if !b.Up {
				all = append(all, f.Name+" to "+b.Backend+downWords(b, s.Time))
			}
		}
	}
	if down == 0 {
		return
	}
	fmt.Fprintf(w, "\nBackends that are down\n")
	for _, line := range all[:min(len(all), most)] {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if n := down - min(len(all), most); n > 0 {
		fmt.Fprintf(w, "  and %d more, see --json\n", n)
	}
}

// downWords says why a backend is down, and since when.
func downWords(b admin.BackendStatus, now time.Time) string {
	words := ""
	if b.LastError != "" {
		words = ": " + value.OneLine(b.LastError)
	}
	if !b.Since.IsZero() {
		words += ", since " + since(max(0, now.Sub(b.Since).Seconds()))
	}
	return words
}

// readyWords says whether the gateway is ready, and why not.
func readyWords(s *admin.Status) string {
	if s.Ready {
		degraded := 0
		for i := range s.Forwards {
			if len(s.Forwards[i].Reasons) > 0 {
				degraded++
			}
		}
		if degraded > 0 {
			return fmt.Sprintf("ready, %s degraded", value.Plural(degraded, "forward"))
		}
		return "ready"
	}
	words := "not ready"
	for i, r := range s.Reasons {
		words += []string{": ", ", "}[min(i, 1)] + r.Word
	}
	return words
}

// forwardReady says in a word whether a forward is ready.
func forwardReady(f *admin.ForwardStatus) string {
	switch {
	case !f.Ready:
		return "no"
	case len(f.Reasons) > 0:
		return "degraded"
	}
	return "yes"
}

// writeDegraded writes the forwards that have a problem of their own, most of them at
// most.
func writeDegraded(w io.Writer, all []admin.ForwardStatus, most int) {
	var b strings.Builder
	n := 0
	for i := range all {
		f := &all[i]
		if len(f.Reasons) == 0 {
			continue
		}
		if n++; n <= most {
			fmt.Fprintf(&b, "  %s: %s\n", f.Name, value.OneLine(reasonWords(f.Reasons)))
		}
	}
	if n > most {
		fmt.Fprintf(&b, "  and %d more\n", n-most)
	}
	if n > 0 {
		fmt.Fprintf(w, "\nDegraded forwards\n%s", b.String())
	}
}

// table writes a heading and returns a writer of columns. The caller flushes it.
func table(w io.Writer, heading string, columns ...string) *tabwriter.Writer {
	fmt.Fprintf(w, "\n%s\n", heading)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  %s\n", strings.Join(columns, "\t"))
	return t
}

func writeForwards(w io.Writer, all []admin.ForwardStatus) {
	t := table(w, "Forwards",
		"LISTEN", "READY", "LEADS TO", "ACTIVE", "ACCEPTED", "REFUSED", "IN", "OUT", "HEADER P99", "CONNECT P99")
	for i := range all {
		f := &all[i]
		leads := ""
		if len(f.Listeners) > 0 {
			leads = f.Listeners[0].Leads
		}
		if f.ListenerCount > 1 {
			leads += fmt.Sprintf(" (%d ports)", f.ListenerCount)
		}
		if f.Transparent {
			leads += ", transparent"
			if f.TOA {
				leads += " (TOA)"
			}
		}
		if f.BackendsDown > 0 {
			leads += fmt.Sprintf(", %d down", f.BackendsDown)
		}
		r := &f.Rates
		fmt.Fprintf(t, "  %s\t%s\t%s\t%d\t%d, %s/s\t%d, %s/s\t%s, %s/s\t%s, %s/s\t%s\t%s\n",
			f.Name, forwardReady(f), leads, f.Active, f.Accepted, rate(r.AcceptedPerSecond), f.Refused, rate(r.RefusedPerSecond),
			size(float64(f.BytesIn)), size(r.BytesInPerSecond), size(float64(f.BytesOut)), size(r.BytesOutPerSecond),
			latency(r.HeaderP99), latency(r.ConnectP99))
	}
	t.Flush()
}

// writeRefusals writes at most most groups of refusals.
func writeRefusals(w io.Writer, s *admin.Status, most int) {
	if len(s.Refusals) == 0 {
		return
	}
	fmt.Fprintf(w, "\nRecent refusals\n")
	for _, r := range s.Refusals[:min(len(s.Refusals), most)] {
		ago := since(max(0, s.Time.Sub(r.Last).Seconds()))
		count := value.Plural(int(r.Count), "connection")
		fmt.Fprintf(w, "  %s %s on %s: %s, the last %s ago\n", r.Outcome, refusedParty(&r), r.Forward, count, ago)
		fmt.Fprintf(w, "    %s\n", joined(": ", r.Meaning, r.Reason))
		switch {
		case r.ByClient:
			fmt.Fprintf(w, "    the last one came from %s\n", r.Peer)
		case r.Client != "":
			fmt.Fprintf(w, "    the last one was of client %s\n", r.Client)
		}
		if r.Sample != "" {
			fmt.Fprintf(w, "    it began with %s\n", r.Sample)
		}
		fmt.Fprintf(w, "    hint: %s\n", r.Hint)
		if r.Action != "" {
			fmt.Fprintf(w, "    %s\n", r.Action)
		}
	}
	if n := len(s.Refusals) - most; n > 0 {
		fmt.Fprintf(w, "  and %d more groups, see --json\n", n)
	}
}

// refusedParty says whose connections were refused.
func refusedParty(r *admin.Refusal) string {
	if !r.ByClient {
		return "from " + r.Peer
	}
	client := r.Client
	if a, err := netip.ParseAddrPort(client); err == nil {
		client = a.Addr().String()
	}
	return "of client " + client
}

// joined joins the parts that are not empty.
func joined(separator string, parts ...string) string {
	var all []string
	for _, p := range parts {
		if p != "" {
			all = append(all, p)
		}
	}
	return strings.Join(all, separator)
}

func writeConnections(w io.Writer, all *admin.Connections) {
	heading := fmt.Sprintf("Connections, %d of %d", len(all.Connections), all.Matched)
	t := table(w, heading, "ID", "FORWARD", "CLIENT", "PEER", "BACKEND", "STATE", "IN", "OUT", "AGE", "IDLE")
	for i := range all.Connections {
		c := &all.Connections[i]
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.ID, c.Forward,
			orDash(c.Client), c.Peer, orDash(c.Backend), c.State,
			size(float64(c.BytesIn)), size(float64(c.BytesOut)), since(c.AgeSeconds), since(c.IdleSeconds))
	}
	t.Flush()
}

// orDash returns s, or "-" if it is empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// rate formats a number of events per second.
func rate(n float64) string {
	if n >= 10 || n == 0 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f", n)
}

// size formats a number of bytes with three digits.
func size(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for ; n >= 999.5 && i < len(units)-1; i++ {
		n /= 1024
	}
	if i == 0 || n >= 99.95 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

// latency formats a time in seconds, or "-" if it is unknown.
func latency(m admin.Maybe) string {
	if m.IsNone() {
		return "-"
	}
	d := time.Duration(float64(m) * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// since formats a time in seconds with its two largest units, "3d4h".
func since(seconds float64) string {
	n := int64(math.Round(seconds))
	for _, u := range []struct {
		seconds     int64
		large, next string
		rest        int64
	}{{86400, "d", "h", 3600}, {3600, "h", "m", 60}, {60, "m", "s", 1}} {
		if n >= u.seconds {
			return fmt.Sprintf("%d%s%d%s", n/u.seconds, u.large, n%u.seconds/u.rest, u.next)
		}
	}
	return fmt.Sprintf("%ds", n)
}

package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Gateway is a running unproxy.
type Gateway struct {
	*Process
	listening []Line
	told      int // connection lines that NextConnection has returned
}

// StartGateway starts unproxy with the flags and waits until it is ready. The
// log is JSON, at debug level unless the flags say otherwise.
func StartGateway(t testing.TB, flags ...string) *Gateway {
	t.Helper()
	return StartGatewayAs(t, Command{}, flags...)
}

// StartGatewayAs is [StartGateway] with the environment and the privileges of
// c. Its Name is the program, "" the one under test; its Args are not used.
func StartGatewayAs(t testing.TB, c Command, flags ...string) *Gateway {
	t.Helper()
	if c.Name == "" {
		c.Name = Binary(t)
	}
	c.Args = gatewayArgs(flags)
	return startGateway(t, c)
}

// StartGatewayOn is [StartGateway] on another host.
func StartGatewayOn(t testing.TB, h *Host, flags ...string) *Gateway {
	t.Helper()
	return startGateway(t, h.On(Command{Name: Binary(t), Args: gatewayArgs(flags)}))
}

func gatewayArgs(flags []string) []string {
	args := append([]string{"--log-format", "json"}, flags...)
	if !strings.Contains(strings.Join(flags, " "), "--log-level") {
		args = append(args, "--log-level", "debug")
	}
	return args
}

func startGateway(t testing.TB, c Command) *Gateway {
	t.Helper()
	g := &Gateway{Process: Start(t, c)}
	g.WaitLine(t, `"message":"ready"`)
	for _, l := range g.Log() {
		if l.String("message") == "listening" {
			g.listening = append(g.listening, l)
		}
	}
	return g
}

// RunGateway runs unproxy with the arguments to its end, such as one that
// refuses to start, and returns what it printed and its exit code.
func RunGateway(t testing.TB, args ...string) (output string, code int) {
	t.Helper()
	return Run(t, Command{Name: Binary(t), Args: args})
}

// Address returns the bound address of the i-th listener, in the order of the
// --forward flags.
func (g *Gateway) Address(t testing.TB, i int) string {
	t.Helper()
	if i >= len(g.listening) {
		t.Fatalf("no listener %d, the gateway has %d", i, len(g.listening))
	}
	return g.listening[i].String("address")
}

// Log returns the lines of JSON that the gateway has written so far.
func (g *Gateway) Log() []Line {
	var all []Line
	for _, text := range g.Lines() {
		if l, ok := parseLine(text); ok {
			all = append(all, l)
		}
	}
	return all
}

// NextConnection waits for the line of the next finished connection: the first
// call returns the first one, and so on.
func (g *Gateway) NextConnection(t testing.TB) Line {
	t.Helper()
	var seen int
	text, ok := g.find(t, func(text string) bool {
		l, ok := parseLine(text)
		if !ok || l.String("message") != "connection" {
			return false
		}
		seen++
		return seen > g.told
	})
	if !ok {
		t.Fatalf("the gateway logged only %d finished connections", g.told)
	}
	g.told++
	l, _ := parseLine(text)
	return l
}

// WaitLog waits for the first line with the message.
func (g *Gateway) WaitLog(t testing.TB, message string) Line {
	t.Helper()
	text, ok := g.find(t, func(text string) bool {
		l, ok := parseLine(text)
		return ok && l.String("message") == message
	})
	if !ok {
		t.Fatalf("the gateway logged no %q", message)
	}
	l, _ := parseLine(text)
	return l
}

// Line is one line of the gateway's log.
type Line map[string]any

func parseLine(text string) (Line, bool) {
	var l Line
	if json.Unmarshal([]byte(text), &l) != nil {
		return nil, false
	}
	return l, true
}

// String returns the value of key as text, "" if there is none.
func (l Line) String(key string) string {
	v, ok := l[key]
	if !ok || v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// AddrPort returns the value of key as an address, the zero one if there is
// none.
func (l Line) AddrPort(key string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(l.String(key))
	return a
}

// Expect fails the test for each pair of a key and a value, "outcome", "ok",
// that the line does not have. It goes by the text of the value.
func (l Line) Expect(t testing.TB, pairs ...string) {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if got := l.String(pairs[i]); got != pairs[i+1] {
			t.Errorf("logged %s %q, want %q, in %v", pairs[i], got, pairs[i+1], l)
		}
	}
}

// NetRaw is what a transparent gateway needs and nothing more.
func NetRaw() []uintptr { return []uintptr{unix.CAP_NET_RAW} }

package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Gateway is a running unproxy.
type Gateway struct {
	*Process
	listening []Line
	returned  int // connection lines that NextConnection has returned
}

// StartGateway starts unproxy with the flags and waits until it is ready. It logs
// JSON, at debug level unless the flags set another.
func StartGateway(t testing.TB, flags ...string) *Gateway {
	t.Helper()
	return StartGatewayAs(t, Command{}, flags...)
}

// StartGatewayAs is [StartGateway] with the environment and privileges of c. c.Name
// is the program, by default the one under test; c.Args is ignored.
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

// RunGateway runs unproxy with the arguments until it exits, and returns its output
// and exit code.
func RunGateway(t testing.TB, args ...string) (output string, code int) {
	t.Helper()
	return Run(t, Command{Name: Binary(t), Args: args})
}

// Address returns the bound address of listener i, in the order of the --forward
// flags.
func (g *Gateway) Address(t testing.TB, i int) string {
	t.Helper()
	if i >= len(g.listening) {
		t.Fatalf("the gateway has %d listeners, there is no number %d", len(g.listening), i)
	}
	return g.listening[i].String("address")
}

// Log returns the JSON lines that the gateway has written so far.
func (g *Gateway) Log() []Line {
	var all []Line
	for _, text := range g.Lines() {
		if l, ok := parseLine(text); ok {
			all = append(all, l)
		}
	}
	return all
}

// Logged returns the lines with the message that the gateway has written so far.
func (g *Gateway) Logged(message string) []Line {
	return slices.DeleteFunc(g.Log(), func(l Line) bool { return l.String("message") != message })
}

// NextConnection waits for the log line of the next finished connection. The first
// call returns the first line, and so on.
func (g *Gateway) NextConnection(t testing.TB) Line {
	t.Helper()
	var seen int
	text, ok := g.find(t, func(text string) bool {
		l, ok := parseLine(text)
		if !ok || l.String("message") != "connection" {
			return false
		}
		seen++
		return seen > g.returned
	})
	if !ok {
		t.Fatalf("the gateway logged only %d finished connections", g.returned)
	}
	g.returned++
	l, _ := parseLine(text)
	return l
}

// ConnectionOf waits for the log line of a finished connection whose client has the
// address, with or without a port, and skips those of others.
func (g *Gateway) ConnectionOf(t testing.TB, client string) Line {
	t.Helper()
	for {
		l := g.NextConnection(t)
		if c := l.AddrPort("client"); c.String() == client || c.Addr().String() == client {
			return l
		}
	}
}

// WaitLog waits for the first line with the message.
func (g *Gateway) WaitLog(t testing.TB, message string) Line {
	t.Helper()
	return g.WaitLogs(t, message, 1)[0]
}

// WaitLogs waits until there are n lines with the message and returns these.
func (g *Gateway) WaitLogs(t testing.TB, message string, n int) []Line {
	t.Helper()
	var lines []Line
	_, ok := g.find(t, func(text string) bool {
		if !strings.Contains(text, message) {
			return false // most lines of a long log need no decoding
		}
		if l, ok := parseLine(text); ok && l.String("message") == message {
			lines = append(lines, l)
		}
		return len(lines) == n
	})
	if !ok {
		t.Fatalf("the gateway logged %q %d times, want %d", message, len(lines), n)
	}
	return lines
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

// String returns the value of key as text, "" if it is absent.
func (l Line) String(key string) string {
	switch v := l[key].(type) {
	case nil:
		return ""
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64) // without an exponent
	default:
		return fmt.Sprint(v)
	}
}

// AddrPort returns the value of key as an address, the zero value if it is absent.
func (l Line) AddrPort(key string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(l.String(key))
	return a
}

// Expect takes pairs of a key and the text of its value, such as "outcome", "ok", and
// fails the test for each that differs in the line.
func (l Line) Expect(t testing.TB, pairs ...string) {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if got := l.String(pairs[i]); got != pairs[i+1] {
			t.Errorf("logged %s %q, want %q, in %v", pairs[i], got, pairs[i+1], l)
		}
	}
}

// NetRaw returns the only capability that a transparent gateway needs.
func NetRaw() []uintptr { return []uintptr{unix.CAP_NET_RAW} }

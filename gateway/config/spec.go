package config

import (
	"fmt"
	"strings"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

// spec is one SPEC of the flag --forward, parsed but not yet combined with the
// common settings.
type spec struct {
	// text is the value as given.
	text string
	// name is LISTEN as given, with its range of ports and with templates expanded.
	name      string
	datagrams bool // udp://
	// listeners has one for each port of a range, with where it leads.
	listeners []forward.Listener
	// settings are the keys after the question mark.
	settings Values
}

// grammar is the hint for a SPEC that cannot be split into its parts.
const grammar = "write --forward LISTEN=BACKEND[,BACKEND...][?KEY=VALUE&...], such as --forward :8443=127.0.0.1:443"

// parseSpec parses a SPEC:
//
//	[tcp://|udp://]LISTEN=BACKEND[,BACKEND...][?KEY[=VALUE][&KEY[=VALUE]...]]
//
// LISTEN is HOST:PORT, :PORT (both families), HOST:LOW-HIGH, unix:PATH or
// systemd:NAME. It may contain {{ templates }} of go-sockaddr, which expand
// replaces by addresses of the host's interfaces. BACKEND is HOST:PORT, NAME:PORT,
// HOST:LOW-HIGH (one port for each port of the listener), unix:PATH or "header".
//
// parseSpec opens nothing, resolves no names and does not check keys; [Load] does.
// The error joins a [*Problem] for each fault.
func parseSpec(text string, expand func(string) (string, error)) (*spec, error) {
	f := &spec{text: text}
	found := problems{prefix: fmt.Sprintf("--forward %q: ", value.Shorten(text))}
	rest, ok := found.withoutScheme(f, text)
	if !ok {
		return nil, found.err()
	}
	listen, leads, ok := value.Cut(rest, '=')
	if !ok || listen == "" {
		found.add("is not LISTEN=BACKEND", incomplete(rest))
		return nil, found.err()
	}
	backends, keys, hasKeys := value.Cut(leads, '?')
	span := found.listeners(f, listen, expand)
	found.backends(f, backends, span)
	if hasKeys {
		f.settings = found.keys(keys)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// incomplete returns the hint for a SPEC without "=".
func incomplete(text string) string {
	listen, _, _ := value.Cut(text, '?')
	if _, _, err := splitPort(listen); err != nil || strings.HasPrefix(listen, "=") {
		return grammar
	}
	return fmt.Sprintf("add a backend: --forward %s=127.0.0.1:PORT", listen)
}

// withoutScheme strips "tcp://" or "udp://" and rejects every other scheme.
func (p *problems) withoutScheme(f *spec, text string) (string, bool) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found || strings.ContainsAny(scheme, "={/:") {
		return text, true
	}
	switch scheme {
	case "tcp":
		return rest, true
	case "udp":
		f.datagrams = true
		return rest, true
	}
	p.add(fmt.Sprintf("unknown scheme %q", value.Shorten(scheme)),
		"the schemes are tcp and udp: --forward "+value.Shorten(rest))
	return "", false
}

// keys splits the part after the question mark. A key may appear several times;
// [problems.key] checks whether it is repeatable.
func (p *problems) keys(text string) Values {
	if text == "" {
		p.add("nothing follows the question mark", "leave it out, or write ?KEY=VALUE")
		return nil
	}
	values := Values{}
	for _, pair := range value.Split(text, '&') {
		key, text, _ := value.Cut(pair, '=')
		if bare := strings.TrimLeft(key, "-"); bare != key {
			p.add(fmt.Sprintf("key %q", value.Shorten(key)), "write the key without dashes: ?"+value.Shorten(bare))
			continue
		}
		if key == "" {
			p.add("a key has no name", "write ?KEY=VALUE&KEY=VALUE")
			continue
		}
		if s := Find(key); s != nil {
			key = s.Name
		}
		values[key] = append(values[key], text)
	}
	return values
}

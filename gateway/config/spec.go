package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-sockaddr/template"

	"unproxy/gateway/config/value"
	"unproxy/gateway/engine"
)

// Forward is one SPEC of the flag --forward, read but not yet combined with
// the settings that hold for all of them.
type Forward struct {
	// Spec is the text as it was given.
	Spec string
	// Name is LISTEN as it was given, with its range of ports, and with
	// templates expanded.
	Name string
	// Datagrams says that it is of UDP.
	Datagrams bool
	// Listeners are where it listens, one for each port of a range, and
	// where each leads.
	Listeners []engine.Listener
	// Settings are the keys after the question mark.
	Settings Values
}

// grammar is the hint for a SPEC that cannot even be taken apart.
const grammar = "write --forward LISTEN=BACKEND[,BACKEND...][?KEY=VALUE&...], such as --forward :8443=127.0.0.1:443"

// ParseForward reads a SPEC:
//
//	[tcp://|udp://]LISTEN=BACKEND[,BACKEND...][?KEY[=VALUE][&KEY[=VALUE]...]]
//
// LISTEN is HOST:PORT, :PORT (both families), HOST:LOW-HIGH, unix:PATH,
// systemd:NAME, or any of these with {{ templates }} of go-sockaddr, which look
// at the host's interfaces. BACKEND is HOST:PORT, NAME:PORT, HOST:LOW-HIGH (one to one with
// the range that is listened on), unix:PATH, or "header". Nothing is opened,
// and no name is resolved. The keys are not looked at: [Load] does that.
//
// The error joins a [*Problem] for everything that is wrong.
func ParseForward(spec string) (*Forward, error) {
	return parseForward(spec, template.Parse)
}

// parseForward is [ParseForward] with a stand-in for the host's interfaces.
func parseForward(spec string, expand func(string) (string, error)) (*Forward, error) {
	f := &Forward{Spec: spec}
	found := problems{prefix: fmt.Sprintf("--forward %q: ", value.Shorten(spec))}
	text, ok := found.withoutScheme(f, spec)
	if !ok {
		return nil, found.err()
	}
	listen, rest, ok := value.Cut(text, '=')
	if !ok || listen == "" {
		found.add("is not LISTEN=BACKEND", incomplete(text))
		return nil, found.err()
	}
	backends, keys, hasKeys := value.Cut(rest, '?')
	span := found.listeners(f, listen, expand)
	found.backends(f, backends, span)
	if hasKeys {
		f.Settings = found.keys(keys)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// incomplete hints at what a SPEC without "=" was meant to be.
func incomplete(text string) string {
	listen, _, _ := value.Cut(text, '?')
	if _, _, err := splitPort(listen); err != nil || strings.HasPrefix(listen, "=") {
		return grammar
	}
	return fmt.Sprintf("say where it leads: --forward %s=127.0.0.1:PORT", listen)
}

// withoutScheme takes off "tcp://" or "udp://" and refuses every other scheme.
func (p *problems) withoutScheme(f *Forward, spec string) (string, bool) {
	scheme, rest, found := strings.Cut(spec, "://")
	if !found || strings.ContainsAny(scheme, "={/:") {
		return spec, true
	}
	switch scheme {
	case "tcp":
		return rest, true
	case "udp":
		f.Datagrams = true
		return rest, true
	}
	p.add(fmt.Sprintf("unknown scheme %q", value.Shorten(scheme)), "the schemes are tcp and udp: --forward "+value.Shorten(rest))
	return "", false
}

// keys reads what comes after the question mark. A key may be given several
// times; which of them may is settled later.
func (p *problems) keys(text string) Values {
	if text == "" {
		p.add("nothing follows the question mark", "leave it out, or write ?KEY=VALUE")
		return nil
	}
	values := Values{}
	for _, pair := range value.Split(text, '&') {
		key, text, _ := value.Cut(pair, '=')
		if bare := strings.TrimLeft(key, "-"); bare != key {
			p.add(fmt.Sprintf("key %q", value.Shorten(key)), "a key is written without dashes: ?"+value.Shorten(bare))
			continue
		}
		if key == "" {
			p.add("there is a key without a name", "write ?KEY=VALUE&KEY=VALUE")
			continue
		}
		values[key] = append(values[key], text)
	}
	return values
}

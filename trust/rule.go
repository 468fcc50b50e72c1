package trust

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	sockaddr "github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/go-sockaddr/template"
)

// Any is the rule that trusts every address of both families.
const Any = "any"

// parser turns the text of rules into rules.
type parser struct {
	presets []Preset
	// evaluate resolves a go-sockaddr template on this host.
	evaluate func(text string) (string, error)
}

// newParser returns a parser for this host.
func newParser() *parser {
	return &parser{presets: Presets(), evaluate: template.Parse}
}

// rule parses one rule that was written at origin. Its error is an [*Error].
func (p *parser) rule(text, origin string) ([]Rule, []Warning, error) {
	if text == Any {
		rules := []Rule{
			{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Text: text, Origin: origin},
			{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Text: text, Origin: origin},
		}
		return rules, []Warning{{origin, text, "trusts every host: whoever can connect may name any client"}}, nil
	}
	if strings.Contains(text, "{{") {
		return p.template(text, origin)
	}
	if !strings.ContainsAny(text, ".:/") {
		return p.preset(text, origin)
	}
	prefix, err := parsePrefix(text)
	if err != nil {
		err.Origin = origin
		return nil, nil, err
	}
	if masked := prefix.Masked(); masked != prefix {
		return nil, nil, &Error{
			Origin:  origin,
			Problem: fmt.Sprintf("%s has host bits set", quote(text)),
			Mend:    fmt.Sprintf("write %s for the network or %s for the one address", masked, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())),
		}
	}
	return []Rule{{Prefix: prefix, Text: text, Origin: origin}}, wide(prefix, text, origin), nil
}

// preset looks up a rule that can only be a name.
func (p *parser) preset(text, origin string) ([]Rule, []Warning, error) {
	for _, s := range p.presets {
		if s.Name != text {
			continue
		}
		rules := make([]Rule, 0, len(s.Prefixes))
		for _, prefix := range s.Prefixes {
			rules = append(rules, Rule{Prefix: prefix, Text: text, Origin: origin, Note: s.note()})
		}
		if s.Warning == "" {
			return rules, nil, nil
		}
		return rules, []Warning{{origin, text, "(" + s.note() + "): " + s.Warning}}, nil
	}
	return nil, nil, p.unknown(text, origin)
}

// unknown is the error for a name that is no preset's.
func (p *parser) unknown(text, origin string) *Error {
	e := &Error{Origin: origin, Problem: fmt.Sprintf("%s is not a prefix, an address or a preset", quote(text))}
	if text == "" {
		e.Problem = "an empty rule"
	}
	names := []string{Any}
	for _, s := range p.presets {
		names = append(names, s.Name)
	}
	for _, name := range names {
		if strings.EqualFold(name, text) {
			e.Mend = "write " + name
			return e
		}
	}
	e.Mend = "write a prefix such as 10.0.0.0/8, an address, or one of " + strings.Join(names[1:], ", ")
	return e
}

// template evaluates a go-sockaddr template. Its values come from interfaces,
// whose addresses are written with the prefix of their network, "10.0.0.5/24":
// there, and only there, host bits are taken off.
func (p *parser) template(text, origin string) ([]Rule, []Warning, error) {
	value, err := p.evaluate(text)
	if err != nil {
		return nil, nil, &Error{Origin: origin, Problem: fmt.Sprintf("template %s: %v", quote(text), err), Err: err}
	}
	var rules []Rule
	var warnings []Warning
	for _, item := range splitList(value) {
		prefix, bad := parsePrefix(item)
		if bad != nil {
			bad.Origin = origin
			bad.Problem = fmt.Sprintf("template %s: its value %s", quote(text), bad.Problem)
			return nil, nil, bad
		}
		prefix = prefix.Masked()
		rules = append(rules, Rule{Prefix: prefix, Text: text, Origin: origin, Note: "from this host's addresses"})
		warnings = append(warnings, wide(prefix, text, origin)...)
	}
	if len(rules) == 0 {
		return nil, nil, &Error{
			Origin:  origin,
			Problem: fmt.Sprintf("template %s matches no address of this host", quote(text)),
			Mend:    "write the prefix itself",
		}
	}
	return rules, warnings, nil
}

// splitList returns the items of a list parted by spaces or commas.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' || r == '\r' })
}

// parsePrefix parses a prefix or a bare address, which is a prefix of its full
// length. It keeps host bits, and turns 4-in-6 into IPv4.
//
// go-sockaddr parses, but only what [screen] lets through: it takes a port for
// a part of an address, reads a netmask in hexadecimal as no mask at all, asks
// the DNS for names, and makes 10.0.0.0/8 of ::ffff:10.0.0.0/8, which means
// nearly every address there is (CVE-2026-90711 is that slip elsewhere).
func parsePrefix(text string) (netip.Prefix, *Error) {
	if err := screen(text); err != nil {
		return netip.Prefix{}, err
	}
	ip, err := sockaddr.NewIPAddr(text)
	if err != nil {
		return netip.Prefix{}, &Error{Problem: fmt.Sprintf("%s is not a prefix or an address", quote(text)), Err: err}
	}
	return prefixOf(ip), nil
}

// screen refuses whatever is not plainly ADDRESS or ADDRESS/BITS. The origin
// of its error is the caller's to fill in.
func screen(text string) *Error {
	fault := func(problem, mend string) *Error {
		return &Error{Problem: quote(text) + " " + problem, Mend: mend}
	}
	host, length, hasLength := strings.Cut(text, "/")
	if a, err := netip.ParseAddrPort(host); err == nil {
		return fault("carries a port", "write "+a.Addr().String()+": trust goes by address alone")
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return fault("is not a prefix or an address", mendAddress(host))
	}
	if a.Zone() != "" {
		return fault("carries a zone", "trust the peer by an address that is not link-local")
	}
	if !hasLength {
		return nil
	}
	n, err := strconv.Atoi(length)
	if err != nil || strconv.Itoa(n) != length || n < 0 {
		return fault("does not end in a number of bits", mendLength(a, length))
	}
	if n > a.BitLen() {
		return fault(fmt.Sprintf("has more bits than the %d of its address", a.BitLen()), "")
	}
	if a.Is4In6() && n < 96 {
		return fault("reaches beyond the IPv4 addresses that ::ffff:0:0/96 holds", "write the IPv4 prefix itself, such as "+a.Unmap().String()+"/32")
	}
	return nil
}

// mendAddress returns a hint for a host that is not an address, or "".
func mendAddress(host string) string {
	inner := strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(inner); err == nil && inner != host {
		return "write " + a.String() + " without brackets"
	}
	from, to, isRange := strings.Cut(host, "-")
	_, err1 := netip.ParseAddr(from)
	_, err2 := netip.ParseAddr(to)
	if isRange && err1 == nil && err2 == nil {
		return "write the range as one or more prefixes"
	}
	if strings.Trim(host, "0123456789.") == "" {
		return "write four numbers from 0 to 255 without leading zeros, such as 10.0.0.0/8"
	}
	if strings.Contains(host, ".") && !strings.Contains(host, ":") {
		return "names are not resolved here: write the peer's addresses"
	}
	return ""
}

// mendLength returns a hint for a netmask that stands where a number of bits
// belongs, or "".
func mendLength(a netip.Addr, length string) string {
	mask, err := netip.ParseAddr(length)
	if err != nil || mask.BitLen() != a.BitLen() {
		return ""
	}
	for n := range mask.BitLen() + 1 {
		if p, _ := allOnes(mask).Prefix(n); p.Addr() == mask {
			network, _ := a.Prefix(n)
			return "write " + network.String()
		}
	}
	return ""
}

// allOnes returns the address of a's family whose bits are all set.
func allOnes(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	for i := range b {
		b[i] = 0xff
	}
	ones, _ := netip.AddrFromSlice(b)
	return ones
}

// prefixOf converts what go-sockaddr parsed. It keeps host bits.
func prefixOf(ip sockaddr.IPAddr) netip.Prefix {
	a, _ := netip.AddrFromSlice(*ip.NetIP())
	return netip.PrefixFrom(a, ip.Maskbits())
}

// wide warns of a prefix that holds more than any one operator has: IPv4 up to
// /7, IPv6 up to /15, for the registries give out no larger blocks than /8 and
// /16.
func wide(p netip.Prefix, text, origin string) []Warning {
	limit := 7
	if p.Addr().Is6() {
		limit = 15
	}
	if p.Bits() > limit {
		return nil
	}
	return []Warning{{origin, text, "is wider than any one network: every host in it may name any client"}}
}

// quote quotes a rule for a message, cut short: a file that is not a list of
// rules at all may have very long lines.
func quote(text string) string {
	const most = 80
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "…"
	}
	return strconv.QuoteToASCII(text)
}

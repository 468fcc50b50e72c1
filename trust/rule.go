package trust

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	sockaddr "github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/go-sockaddr/template"
)

// Any is the rule that trusts every IPv4 and IPv6 address.
const Any = "any"

// mappedBits is the length of ::ffff:0:0/96, the IPv4-mapped range (RFC 4291,
// section 2.5.5.2).
const mappedBits = 96

// parser parses rules.
type parser struct {
	presets []Preset
	// evaluate evaluates a go-sockaddr template.
	evaluate func(text string) (string, error)
	// nearest is [Source.Nearest].
	nearest func(word string, names []string) string
}

// newParser returns a parser that evaluates templates on this host.
func newParser() *parser {
	return &parser{presets: Presets(), evaluate: template.Parse}
}

// rule parses one rule. Its error is an [*Error].
func (p *parser) rule(text, origin string) ([]Rule, []Warning, error) {
	if text == Any {
		rules := []Rule{
			{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Text: text, Origin: origin},
			{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Text: text, Origin: origin},
		}
		return rules, []Warning{{origin, text, "trusts every host: anyone who can connect may name any client", false}}, nil
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
	if err := hostBits(prefix, text); err != nil {
		err.Origin = origin
		return nil, nil, err
	}
	return []Rule{{Prefix: prefix, Text: text, Origin: origin}}, wide(prefix, text, origin), nil
}

// ParsePrefix parses a prefix, or an address as a prefix of full length, as in a rule. It
// rejects host bits and converts IPv4-mapped IPv6 to IPv4. Its error is an [*Error]
// without an origin.
func ParsePrefix(text string) (netip.Prefix, error) {
	prefix, err := parsePrefix(text)
	if err == nil {
		err = hostBits(prefix, text)
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	return prefix, nil
}

// hostBits rejects a prefix that has any. Its error has no origin.
func hostBits(prefix netip.Prefix, text string) *Error {
	masked := prefix.Masked()
	if masked == prefix {
		return nil
	}
	return &Error{
		Problem: quote(text) + " has host bits set",
		hint: fmt.Sprintf("write %s for the network or %s for the single address",
			masked, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())),
	}
}

// preset parses a rule that can only be the name of a preset.
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
		return rules, []Warning{{origin, text, "(" + s.note() + "): " + s.Warning, false}}, nil
	}
	return nil, nil, p.unknown(text, origin)
}

// unknown returns the error for a name that no preset has.
func (p *parser) unknown(text, origin string) *Error {
	e := &Error{Origin: origin, Problem: fmt.Sprintf("%s is not a prefix, an address or a preset", quote(text))}
	if text == "" {
		e.Problem = "empty rule"
	}
	names := []string{Any}
	for _, s := range p.presets {
		names = append(names, s.Name)
	}
	for _, name := range names {
		if strings.EqualFold(name, text) {
			e.hint = "write " + name
			return e
		}
	}
	if p.nearest != nil {
		if near := p.nearest(strings.ToLower(text), names); near != "" {
			e.hint = "did you mean " + near + "?"
			return e
		}
	}
	e.hint = "write a prefix such as 10.0.0.0/8, an address, or one of " + strings.Join(names[1:], ", ")
	return e
}

// template evaluates a go-sockaddr template. It clears host bits, which are an
// error elsewhere: go-sockaddr writes an interface's address with the length of
// its network's prefix, "10.0.0.5/24".
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
			hint:    "write the prefix itself",
		}
	}
	return rules, warnings, nil
}

// splitList splits a list separated by white space or commas.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" ,\t\n\r", r) })
}

// parsePrefix parses a prefix, or an address as a prefix of full length. It keeps
// host bits and converts IPv4-mapped IPv6 to IPv4. Its error has no origin.
//
// go-sockaddr parses only text that [screen] has accepted. On its own it ignores
// a port, ignores a hexadecimal netmask, resolves names by DNS, and reads
// ::ffff:10.0.0.0/8, which covers nearly every address, as 10.0.0.0/8 (compare
// CVE-2026-90711).
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

// screen rejects any text that is not exactly ADDRESS or ADDRESS/LENGTH. Its
// error has no origin.
func screen(text string) *Error {
	fault := func(problem, hint string) *Error {
		return &Error{Problem: quote(text) + " " + problem, hint: hint}
	}
	host, length, hasLength := strings.Cut(text, "/")
	if a, err := netip.ParseAddrPort(host); err == nil {
		return fault("contains a port", "write "+a.Addr().String()+": rules match addresses, not ports")
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return fault("is not a prefix or an address", addressHint(host))
	}
	if a.Zone() != "" {
		return fault("contains a zone", "write an address that is not link-local")
	}
	if !hasLength {
		return nil
	}
	n, err := strconv.Atoi(length)
	if err != nil || strconv.Itoa(n) != length || n < 0 {
		return fault("does not end in a prefix length", lengthHint(a, length))
	}
	if n > a.BitLen() {
		return fault(fmt.Sprintf("has a prefix length above %d", a.BitLen()), "")
	}
	if a.Is4In6() && n < mappedBits {
		return fault("is wider than ::ffff:0:0/96, the IPv4-mapped range",
			"write the IPv4 prefix itself, such as "+a.Unmap().String()+"/32")
	}
	return nil
}

// addressHint returns a hint for a host that is not an address, or "".
func addressHint(host string) string {
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
		return "names are not resolved: write the addresses"
	}
	return ""
}

// lengthHint returns a hint for a netmask in place of a prefix length, or "".
func lengthHint(a netip.Addr, length string) string {
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

// allOnes returns the address of a's family with all bits set.
func allOnes(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	for i := range b {
		b[i] = 0xff
	}
	ones, _ := netip.AddrFromSlice(b)
	return ones
}

// prefixOf converts a go-sockaddr address. It keeps host bits.
func prefixOf(ip sockaddr.IPAddr) netip.Prefix {
	a, _ := netip.AddrFromSlice(*ip.NetIP())
	return netip.PrefixFrom(a, ip.Maskbits())
}

// The longest prefixes that wide warns about. The registries assign no blocks
// wider than a /8 of IPv4 and a /16 of IPv6.
const (
	wideBits4 = 7
	wideBits6 = 15
)

// wide warns about a prefix that is wider than any single operator's network.
func wide(p netip.Prefix, text, origin string) []Warning {
	limit := wideBits4
	if p.Addr().Is6() {
		limit = wideBits6
	}
	if p.Bits() > limit {
		return nil
	}
	return []Warning{{origin, text, "is wider than any single network: every host in it may name any client", false}}
}

// maxQuoted is the number of bytes of a rule that a message quotes: the lines of
// a file that is not a list of rules may be very long.
const maxQuoted = 80

// quote quotes a rule for a message.
func quote(text string) string {
	if len(text) > maxQuoted {
		return strconv.QuoteToASCII(text[:maxQuoted]) + "…"
	}
	return strconv.QuoteToASCII(text)
}

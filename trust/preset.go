package trust

import (
	"cmp"
	"embed"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	sockaddr "github.com/hashicorp/go-sockaddr"
)

// Preset is a named list of prefixes that a provider or a standard publishes.
// Presets are compiled in and never updated at run time; Date says how old they
// are.
type Preset struct {
	// Name is the word that an operator writes as a rule.
	Name string
	// Date is the day on which the prefixes were copied from the source, as
	// YYYY-MM-DD; for a standard, its month of publication, as YYYY-MM.
	Date string
	// Source is the URL or the standard that lists the prefixes.
	Source string
	// Status says how the prefixes were verified and what was not verified.
	Status string
	// Warning says which hosts the operator trusts by using the preset.
	Warning string
	// Shared reports whether hosts of other organizations can connect from the
	// prefixes.
	Shared bool
	// Prefixes are masked, and none is 4-in-6.
	Prefixes []netip.Prefix
}

//go:embed presets/*.txt
var presetFiles embed.FS

// Presets returns all presets, sorted by name. The caller owns the slices.
func Presets() []Preset {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(fmt.Sprintf("embedded presets: %v", err))
	}
	all := standardPresets()
	for _, e := range entries {
		text, err := presetFiles.ReadFile(path.Join("presets", e.Name()))
		if err != nil {
			panic(fmt.Sprintf("embedded presets: %v", err))
		}
		p, err := parsePreset(strings.TrimSuffix(e.Name(), ".txt"), string(text))
		if err != nil {
			panic(fmt.Sprintf("embedded presets: %v", err))
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Preset) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// FindPreset returns the preset with a name, and whether it exists.
func FindPreset(name string) (Preset, bool) {
	for _, p := range Presets() {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}

// note returns the origin of the prefixes for [Rule.Note]: the standard's name
// or the date of the preset.
func (p Preset) note() string {
	if standard, _, _ := strings.Cut(p.Source, ","); strings.HasPrefix(standard, "RFC ") {
		return standard
	}
	return "preset of " + p.Date
}

// parsePreset parses a preset's file: "# key: value" lines, which "#   " lines
// continue, followed by one canonical prefix per line.
func parsePreset(name, text string) (Preset, error) {
	p := Preset{Name: name}
	var shared string
	fields := map[string]*string{
		"date": &p.Date, "source": &p.Source, "status": &p.Status, "warning": &p.Warning, "shared": &shared,
	}
	var last *string
	for i, line := range strings.Split(text, "\n") {
		comment, isComment := strings.CutPrefix(line, "#")
		if !isComment {
			if line == "" {
				continue
			}
			prefix, err := netip.ParsePrefix(line)
			if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				return Preset{}, fmt.Errorf("%s.txt:%d: %q is not a canonical prefix", name, i+1, line)
			}
			p.Prefixes = append(p.Prefixes, prefix)
			continue
		}
		if more, ok := strings.CutPrefix(comment, "   "); ok && last != nil {
			*last += " " + strings.TrimSpace(more)
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(comment), ": ")
		if last = fields[key]; last == nil {
			return Preset{}, fmt.Errorf("%s.txt:%d: unknown key %q", name, i+1, key)
		}
		*last = strings.TrimSpace(value)
	}
	p.Shared = shared == "yes"
	if p.Date == "" || p.Source == "" || p.Status == "" || len(p.Prefixes) == 0 || (shared != "yes" && shared != "no") {
		return Preset{}, fmt.Errorf("%s.txt: date, source, status, shared or prefixes are missing", name)
	}
	return p, nil
}

// standardPresets returns the presets that standards define, with the prefixes
// of go-sockaddr's registry.
func standardPresets() []Preset {
	const status = "prefixes of the standard as go-sockaddr lists them"
	return []Preset{{
		Name: "rfc1918", Date: "1996-02", Source: "RFC 1918, section 3", Status: status,
		Warning:  "every host in your private IPv4 networks may name any client",
		Prefixes: known(1918, isRouted),
	}, {
		Name: "rfc4193", Date: "2005-10", Source: "RFC 4193, section 3.1", Status: status,
		Warning:  "every host in your private IPv6 networks may name any client",
		Prefixes: known(4193, isRouted),
	}, {
		Name: "rfc6598", Date: "2012-04", Source: "RFC 6598, section 7", Status: status, Shared: true,
		Warning:  "carriers and clouds share this range among their customers, each of whom may name any client",
		Prefixes: known(6598, isRouted),
	}, {
		Name: "rfc6890", Date: "2013-04", Source: "RFC 6890, section 2.2", Shared: true,
		Status: status + "; 2001::/16 of that list narrowed to the standard's 2001::/23, " +
			"and ::ffff:0:0/96 left out, which would be all of IPv4",
		Warning: "very wide, and not only private: hosts of the public Internet appear as 2002::/16 (6to4), " +
			"2001::/32 (Teredo) and 64:ff9b::/96 (NAT64)",
		Prefixes: known(6890, isRouted),
	}, {
		Name: "loopback", Date: "2006-02", Source: "RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3", Status: status,
		Warning:  "every process on this host may name any client",
		Prefixes: append(known(1122, isLoopback), known(4291, isLoopback)...),
	}}
}

// known returns the prefixes of go-sockaddr's list for an RFC for which keep
// returns true.
func known(rfc uint, keep func(netip.Prefix) bool) []netip.Prefix {
	tooWide := netip.MustParsePrefix("2001::/16")
	var out []netip.Prefix
	for _, a := range sockaddr.KnownRFCs()[rfc] {
		ip, ok := a.(sockaddr.IPAddr)
		if !ok {
			continue
		}
		p := prefixOf(ip)
		if p == tooWide {
			// go-sockaddr lists the whole space of a registry, which contains
			// ordinary public hosts, for 2001::/23 (RFC 6890, table 23).
			p = netip.PrefixFrom(p.Addr(), 23)
		}
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// isRouted excludes the IPv4-mapped range, which would match all of IPv4.
func isRouted(p netip.Prefix) bool { return !p.Addr().Is4In6() }

// isLoopback selects the loopback ranges from lists that contain others.
func isLoopback(p netip.Prefix) bool { return p.Addr().IsLoopback() }

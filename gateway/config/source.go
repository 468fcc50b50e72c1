package config

import (
	"fmt"
	"net/netip"
	"slices"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
	"unproxy/gateway/source"
	"unproxy/transparent"
)

// sourceAddresses binds addresses and prefixes that a forward connects from.
func sourceAddresses(at func(*draft) *[]netip.Prefix) binding[draft] {
	return func(d *draft, texts []string) (err error) {
		*at(d), err = parseSourceAddresses(texts)
		return err
	}
}

// parseSourceAddresses parses addresses and prefixes, not too many of them.
func parseSourceAddresses(texts []string) (all []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := parseSourceAddress(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if source.Count(all, source.MaxAddresses+1) > source.MaxAddresses {
		return nil, &value.Error{Why: fmt.Sprintf("makes more than %d source addresses, the maximum of a forward",
			source.MaxAddresses)}
	}
	return all, nil
}

// parseSourceAddress parses an address or a prefix of addresses that a socket can be
// bound to. The error is a [value.Error].
func parseSourceAddress(text string) (netip.Prefix, error) {
	p, err := parsePrefix(text)
	if err != nil {
		return netip.Prefix{}, &value.Error{Value: text, Why: "is not an address or a prefix such as 10.0.0.7 or 10.9.0.0/28"}
	}
	a := p.Addr()
	switch {
	case p != p.Masked():
		return netip.Prefix{}, &value.Error{Value: text, Why: "has bits behind the prefix",
			Hint: p.Masked().String()}
	case a.IsUnspecified():
		return netip.Prefix{}, &value.Error{Value: text, Why: "is every address: name those of this host"}
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Prefix{}, &value.Error{Value: text, Why: "is no address that a connection can come from"}
	case a.Is6() && a.IsLinkLocalUnicast():
		return netip.Prefix{}, &value.Error{Value: text, Why: "is link-local and would need an interface"}
	}
	return p, nil
}

func setMapPrefix(d *draft, texts []string) error {
	p, err := netip.ParsePrefix(last(texts))
	if err != nil {
		return &value.Error{Why: "is not an IPv6 prefix of 96 bits", Hint: "64:ff9b::/96"}
	}
	if why := transparent.CheckMapPrefix(p); why != "" {
		hint := netip.PrefixFrom(p.Addr(), 96).Masked()
		if transparent.CheckMapPrefix(hint) != "" {
			return &value.Error{Why: why}
		}
		return &value.Error{Why: why, Hint: hint.String()}
	}
	d.Source.MapPrefix = p
	return nil
}

// sources warns of backends of an address family without a source address.
func (v *validator) sources(f *forward.Forward) {
	if len(f.SourceAddresses) == 0 {
		return
	}
	for _, is4 := range [...]bool{true, false} {
		if slices.ContainsFunc(f.SourceAddresses, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 }) {
			continue
		}
		family := "IPv6"
		if is4 {
			family = "IPv4"
		}
		if name := backendOf(f, is4); name != "" {
			v.warn(fmt.Sprintf("backend %s has an %s address, but no source address has: there the kernel chooses one",
				name, family), "add an "+family+" address: --source-address")
		}
	}
}

// backendOf returns the name of a backend whose address has a family, or "". Addresses of
// names are not known here.
func backendOf(f *forward.Forward, is4 bool) string {
	for _, l := range f.Listeners {
		for _, b := range l.Backends {
			if a := b.Endpoint.Addr.Addr(); a.IsValid() && a.Is4() == is4 {
				return b.String()
			}
		}
	}
	return ""
}

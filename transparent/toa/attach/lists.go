package attach

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// The capacities of the maps, see lists.h.
const (
	maxPrefixes = 4096
	maxPorts    = 1024
)

// Bits of a gateway's entry, see lists.h.
const (
	listed       = 1
	listedLegacy = 2
)

// prefixKey is struct prefix. IPv4 prefixes are mapped.
type prefixKey struct {
	Bits    uint32
	Address [16]byte
}

const mappedBits = 96

func keyOf(p netip.Prefix) prefixKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += mappedBits
	}
	return prefixKey{uint32(bits), p.Addr().As16()}
}

func (k prefixKey) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.Address)
	if a.Is4In6() && k.Bits >= mappedBits {
		return netip.PrefixFrom(a.Unmap(), int(k.Bits)-mappedBits)
	}
	return netip.PrefixFrom(a, int(k.Bits))
}

// lists is what a server's programs go by.
type lists struct {
	gateways map[prefixKey]uint8
	ports    map[uint16]uint8
}

func (c ServerConfig) lists() lists {
	l := lists{map[prefixKey]uint8{}, map[uint16]uint8{}}
	bits := uint8(listed)
	if c.Legacy {
		bits |= listedLegacy
	}
	for _, p := range c.From {
		l.gateways[keyOf(p)] = bits
	}
	for _, p := range c.Ports {
		l.ports[p] = 1
	}
	return l
}

// write makes the maps hold these lists. It adds before it removes, so that what is in
// both the old and the new list is found throughout.
func (l lists) write(all map[string]*ebpf.Map) error {
	if err := replace(all["toa_gateways"], l.gateways); err != nil {
		return fmt.Errorf("write the list of gateways: %w", err)
	}
	if err := replace(all["toa_ports"], l.ports); err != nil {
		return fmt.Errorf("write the list of ports: %w", err)
	}
	return nil
}

// read is the inverse of write.
func (l *lists) read(all map[string]*ebpf.Map) (err error) {
	if l.gateways, err = entries[prefixKey](all["toa_gateways"]); err != nil {
		return fmt.Errorf("read the list of gateways: %w", err)
	}
	if l.ports, err = entries[uint16](all["toa_ports"]); err != nil {
		return fmt.Errorf("read the list of ports: %w", err)
	}
	return nil
}

func replace[K comparable](m *ebpf.Map, want map[K]uint8) error {
	for k, v := range want {
		if err := m.Put(k, v); err != nil {
			return err
		}
	}
	have, err := entries[K](m)
	if err != nil {
		return err
	}
	for k := range have {
		if _, keep := want[k]; keep {
			continue
		}
		if err := m.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func entries[K comparable](m *ebpf.Map) (map[K]uint8, error) {
	all := map[K]uint8{}
	if m == nil {
		return all, nil
	}
	var k K
	var v uint8
	i := m.Iterate()
	for i.Next(&k, &v) {
		all[k] = v
	}
	return all, i.Err()
}

// prefixes returns the listed gateways in order, and whether any may use legacy options.
func (l lists) prefixes() (all []netip.Prefix, legacy bool) {
	for k, bits := range l.gateways {
		all = append(all, k.prefix())
		legacy = legacy || bits&listedLegacy != 0
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all, legacy
}

func (l lists) portList() []uint16 { return slices.Sorted(maps.Keys(l.ports)) }

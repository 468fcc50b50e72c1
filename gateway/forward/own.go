package forward

import (
	"cmp"
	"net/netip"
	"slices"
)

// OwnListener is a socket on which this process listens.
type OwnListener struct {
	Addr netip.AddrPort
	// DualStack means that an IPv6 wildcard accepts IPv4 connections too.
	DualStack bool
	Datagrams bool
}

// Receives reports whether packets that this host sends to an address reach l
// without a packet filter. own are the host's own addresses; nil is loopback alone.
func (l OwnListener) Receives(to netip.AddrPort, own Addresses) bool {
	at := l.Addr.Addr().Unmap().WithZone("")
	if !at.IsValid() || to.Port() != l.Addr.Port() {
		return false
	}
	a := to.Addr()
	if !at.IsUnspecified() {
		return a == at
	}
	if at.Is6() && !l.DualStack && a.Is4() || at.Is4() && a.Is6() {
		return false
	}
	// A socket on a wildcard receives what this host sends to a multicast group
	// of which any interface is a member (IP_MULTICAST_ALL in ip(7)).
	return a.IsLoopback() || own != nil && own.Contains(a) || l.Datagrams && a.IsMulticast()
}

// OwnListeners are the sockets on which this process listens. The zero value and nil
// are none. Lookups may be concurrent once all listeners are added, and do not
// allocate.
type OwnListeners struct{ sorted []OwnListener }

// Add adds listeners.
func (o *OwnListeners) Add(all ...OwnListener) {
	o.sorted = append(o.sorted, all...)
	slices.SortFunc(o.sorted, func(a, b OwnListener) int { return cmp.Compare(a.key(), b.key()) })
}

// key orders listeners by protocol and port.
func (l OwnListener) key() int { return ownKey(l.Datagrams, l.Addr.Port()) }

func ownKey(datagrams bool, port uint16) int {
	if datagrams {
		return 1<<16 | int(port)
	}
	return int(port)
}

// Receive reports whether one of the listeners receives packets to an address, as
// [OwnListener.Receives] does.
func (o *OwnListeners) Receive(to netip.AddrPort, datagrams bool, own Addresses) bool {
	if o == nil {
		return false
	}
	key := ownKey(datagrams, to.Port())
	byKey := func(l OwnListener, key int) int { return cmp.Compare(l.key(), key) }
	i, _ := slices.BinarySearchFunc(o.sorted, key, byKey)
	for ; i < len(o.sorted) && o.sorted[i].key() == key; i++ {
		if o.sorted[i].Receives(to, own) {
			return true
		}
	}
	return false
}

// Own returns l, which is bound to at, as one of this process's listeners.
func (l *Listener) Own(at netip.AddrPort, datagrams bool) OwnListener {
	// Whether a socket of systemd's is dual-stack is not known.
	return OwnListener{Addr: at, DualStack: l.DualStack || l.Activation != "", Datagrams: datagrams}
}

package datagram

import (
	"math"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// flowState describes a flow to another process, whose clock and listener numbers
// differ. It omits what that process finds out by itself: how many replies to read at
// once, and whether the path allows GSO.
type flowState struct {
	// The listener's socket, and the settings that the new forward must share.
	bound  netip.AddrPort
	index  uint16 // of the socket among those with the address
	mode   forward.DatagramHeader
	mark   uint32
	spoof  bool
	byPeer bool // the peer's address alone is the key

	peer, client, destination netip.AddrPort
	backend, source           netip.AddrPort
	reply                     address
	spp                       []byte
	version, attempt          uint8
	alternatives, claimed     bool
	bulk                      bool // the socket may return GRO batches

	age, idle, unheard   time.Duration // since the start, the last datagram, the peer's last datagram
	packetsIn, bytesIn   int64
	packetsOut, bytesOut int64
	lastError            syscall.Errno
	details              *record.Details
}

// fields lists the fields for a codec. Add new ones at the end: a process that does
// not know them skips them. Other changes need another handoverVersion.
func (s *flowState) fields(c *codec) {
	c.addrPort(&s.bound)
	number(c, &s.index)
	number(c, &s.mode)
	number(c, &s.mark)
	c.bool(&s.spoof)
	c.bool(&s.byPeer)
	for _, a := range [...]*netip.AddrPort{&s.peer, &s.client, &s.destination, &s.backend, &s.source} {
		c.addrPort(a)
	}
	s.reply.fields(c)
	c.bytes(&s.spp)
	number(c, &s.version)
	number(c, &s.attempt)
	c.bool(&s.alternatives)
	c.bool(&s.claimed)
	c.bool(&s.bulk)
	for _, v := range [...]*int64{(*int64)(&s.age), (*int64)(&s.idle), (*int64)(&s.unheard),
		&s.packetsIn, &s.bytesIn, &s.packetsOut, &s.bytesOut} {
		number(c, v)
	}
	number(c, &s.lastError)
	has := s.details != nil
	c.bool(&has)
	if !has {
		return
	}
	if c.reading {
		s.details = new(record.Details)
	}
	detailFields(s.details, c)
}

func detailFields(d *record.Details, c *codec) {
	for _, text := range [...]*string{
		&d.Authority, &d.ALPN, &d.UniqueID, &d.TLSVersion, &d.TLSCommonName, &d.AWSVPCEndpoint,
	} {
		c.text(text, record.MaxDetail)
	}
	number(c, &d.AzureLink)
	c.uint64(&d.GCPConnection)
	number(c, &d.TLSVerify)
	for _, is := range [...]*bool{&d.HasAzureLink, &d.HasGCPConnection, &d.TLSVerified, &d.HasTLSVerify} {
		c.bool(is)
	}
}

// fields lists the fields of the struct sockaddr_in or sockaddr_in6, in the layout of
// this host's kernel, and the local address.
func (a *address) fields(c *codec) {
	number(c, &a.nameLength)
	number(c, &a.name.Family)
	number(c, &a.name.Port)
	number(c, &a.name.Flowinfo) // for IPv4: the address
	c.array(a.name.Addr[:])
	number(c, &a.name.Scope_id)
	c.array(a.local[:])
}

// longest bounds the times of a flow, so that differences do not overflow.
const longest = math.MaxInt64 / 4

// sane reports whether a process can have written a state that was read.
func (s *flowState) sane() bool {
	name := s.reply.name.Family == unix.AF_INET && s.reply.nameLength == unix.SizeofSockaddrInet4 ||
		s.reply.name.Family == unix.AF_INET6 && s.reply.nameLength == unix.SizeofSockaddrInet6
	return name && s.bound.IsValid() && s.peer.IsValid() && s.backend.IsValid() &&
		(len(s.spp) == 0 || len(s.spp) == SPPLength) && (!s.claimed || s.source.IsValid()) &&
		s.age <= longest && s.idle <= longest && s.unheard <= longest
}

// stateOf returns the state of a flow.
func (w *worker) stateOf(f *flow) flowState {
	now := w.host.Now()
	return flowState{
		bound: w.relay.bound[f.listener.number].Addr, index: f.listener.index,
		mode: f.list.DatagramHeader, mark: f.list.Mark, spoof: f.spoof,
		byPeer: f.key == key{listener: f.key.listener, peer: f.key.peer},
		peer:   f.peer, client: f.client, destination: f.destination, backend: f.backend.Addr, source: f.source,
		reply: f.reply, spp: f.replyHeader, version: f.version, attempt: f.attempt,
		alternatives: f.alternatives, claimed: f.claimed, bulk: f.bulk,
		age:       time.Duration(max(0, now-f.startedAt)),
		idle:      time.Duration(max(0, now-f.lastActive)),
		unheard:   time.Duration(max(0, now-f.lastReceived)),
		packetsIn: f.packetsIn, bytesIn: f.bytesIn, packetsOut: f.packetsOut, bytesOut: f.bytesOut,
		lastError: f.lastError, details: f.details,
	}
}

// keyAt returns the key of the flow at a listener of this process.
func (s *flowState) keyAt(listener uint32) key {
	k := key{listener: listener, peer: endOf(s.peer)}
	if !s.byPeer {
		k.client, k.destination = endOf(s.client), endOf(s.destination)
	}
	return k
}

// restore sets the state of a new flow.
func (f *flow) restore(s *flowState, now int64) {
	f.peer, f.client, f.destination, f.source = s.peer, s.client, s.destination, s.source
	f.backend = forward.Endpoint{Addr: s.backend}
	f.reply, f.spoof, f.version, f.attempt = s.reply, s.spoof, s.version, s.attempt
	f.alternatives, f.bulk, f.lastError, f.details = s.alternatives, s.bulk, s.lastError, s.details
	f.startedAt, f.lastActive, f.lastReceived = now-int64(s.age), now-int64(s.idle), now-int64(s.unheard)
	f.packetsIn, f.bytesIn, f.packetsOut, f.bytesOut = s.packetsIn, s.bytesIn, s.packetsOut, s.bytesOut
	if len(s.spp) > 0 {
		f.spp = [SPPLength]byte(s.spp)
		f.replyHeader = f.spp[:]
	}
}

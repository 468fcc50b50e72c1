package integration_test

import (
	"net/netip"
	"testing"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// denied are sources that the kernel or a backend would take for the host itself.
var denied = []struct {
	header []byte
	client string // as it is logged
	reason string
}{
	{header: v4Header("127.0.0.1"), client: "127.0.0.1:4711", reason: "loopback"},
	{header: v4Header("127.0.0.53"), client: "127.0.0.53:4711", reason: "loopback"},
	{header: v4Header("0.0.0.0"), client: "0.0.0.0:4711", reason: "unspecified"},
	{header: v4Header("224.0.0.1"), client: "224.0.0.1:4711", reason: "multicast"},
	{header: v4Header("255.255.255.255"), client: "255.255.255.255:4711", reason: "broadcast"},
	{header: v4Header("169.254.169.254"), client: "169.254.169.254:4711", reason: "link-local"},
	{header: v4Header("198.51.100.5"), client: "198.51.100.5:4711", reason: "the gateway's own address"},
	{header: v4Header("198.51.100.255"), client: "198.51.100.255:4711", reason: "the gateway's own address"},
	{header: v6Header("::"), client: "[::]:4711", reason: "unspecified"},
	{header: v6Header("::1"), client: "[::1]:4711", reason: "loopback"},
	{header: v6Header("ff02::1"), client: "[ff02::1]:4711", reason: "multicast"},
	{header: v6Header("fe80::1"), client: "[fe80::1]:4711", reason: "link-local"},
	{header: v6Header("::127.0.0.1"), client: "[::7f00:1]:4711", reason: "IPv4-compatible"},
	{header: v6Header("::ffff:127.0.0.1"), client: "127.0.0.1:4711", reason: "loopback"},
	{header: v6Header("::ffff:0.0.0.0"), client: "0.0.0.0:4711", reason: "unspecified"},
	{header: v6Header("::ffff:224.0.0.1"), client: "224.0.0.1:4711", reason: "multicast"},
	{header: v6Header("2001:db8:5::5"), client: "[2001:db8:5::5]:4711", reason: "the gateway's own address"},
	{header: lab.V1(source("127.0.0.1"), dest4), client: "127.0.0.1:4711", reason: "loopback"},
	{header: lab.V1(source("0.0.0.0"), dest4), client: "0.0.0.0:4711", reason: "unspecified"},
	{header: lab.V1(source("::1"), dest6), client: "[::1]:4711", reason: "loopback"},
	{header: lab.V1(source("::ffff:127.0.0.1"), dest6), client: "127.0.0.1:4711", reason: "loopback"},
}

func source(address string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), 4711)
}

func v4Header(address string) []byte { return lab.V2(source(address), dest4) }
func v6Header(address string) []byte { return lab.V2(source(address), dest6) }

// backendFor returns the backend of the family of a client, in the form of the log.
func backendFor(client string) string {
	if netip.MustParseAddrPort(client).Addr().Is4() {
		return "127.0.0.1:25"
	}
	return "[::1]:25"
}

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25;  lo: 198.51.100.5/24, 2001:db8:5::5
//
// For denied sources no connection to the backend is opened.
func TestDeniedSourcesDoNotReachTheBackend(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.5/24 broadcast + dev lo")
		netns.IP(t, "address add 2001:db8:5::5/128 dev lo nodad")
		backends := map[string]*lab.Backend{}
		for _, address := range []string{"127.0.0.1:25", "[::1]:25"} {
			backends[address] = lab.Listen(t, address)
		}
		for _, tt := range denied {
			// A gateway for each: one would omit lines of so many refusals.
			g := transparentGateway(t, backendFor(tt.client))
			c := lab.Send(t, g.Address(t, 0), append(tt.header, "payload"...))
			wantEnd(t, c)
			g.NextConnection(t).Expect(t, "client", tt.client, "outcome", "source_denied", "reason", tt.reason,
				"phase", "dial", "by", "gateway", "bytes_in", "0", "bytes_out", "0")
		}
		for address, b := range backends {
			if n := b.Accepted(); n != 0 {
				t.Errorf("%d connections to the backend %s, want none", n, address)
			}
		}
	})
}

// test ──header──▶ unproxy --allow-source ──▶ test 127.0.0.1:25, [::1]:25
func TestTransparentAllowedSources(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		netns.IP(t, "address add 198.51.100.5/32 dev lo")
		for _, tt := range []struct{ allow, source, denied string }{
			{"127.0.0.0/8", "127.0.0.2", "0.0.0.0"},
			{"198.51.100.5", "198.51.100.5", "127.0.0.2"},
			{"169.254.0.0/16", "169.254.7.7", "198.51.100.5"},
			{"::1", "::1", "fe80::7"},
		} {
			t.Run(tt.source, func(t *testing.T) {
				backend := backendFor(source(tt.source).String())
				b := lab.Listen(t, backend)
				g := transparentGateway(t, backend, "--allow-source", tt.allow)
				lab.Send(t, g.Address(t, 0), headerOf(source(tt.source)), []byte("payload")).CloseWrite()
				c := b.Next(t)
				wantRead(t, c, "payload")
				if got := lab.Peer(c); got != source(tt.source) {
					t.Errorf("the backend saw %v, want %v", got, source(tt.source))
				}
				c.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok")

				wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(source(tt.denied))))
				g.NextConnection(t).Expect(t, "client", source(tt.denied).String(), "outcome", "source_denied")
			})
		}
	})
}

// test ──header──▶ unproxy ──▶ test 127.0.0.1:25, [::1]:25, of the other family
func TestTransparentFamilyMismatch(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			backend    string
			client     netip.AddrPort
			gateway    netip.Addr // the source of a plain connection
			standIn    netip.AddrPort
			familyName string
		}{
			{"127.0.0.1:25", client6, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddrPort("244.171.149.255:4711"),
				"IPv6 client"},
			{"[::1]:25", client4, netip.MustParseAddr("::1"), netip.MustParseAddrPort("[64:ff9b::192.0.2.9]:4711"),
				"IPv4 client"},
		} {
			t.Run(tt.familyName, func(t *testing.T) {
				b := lab.Listen(t, tt.backend)

				g := transparentGateway(t, tt.backend)
				wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(tt.client)))
				g.NextConnection(t).Expect(t, "outcome", "family_mismatch", "phase", "dial", "client", tt.client.String())

				g = transparentGateway(t, tt.backend, "--family-mismatch", "plain")
				lab.Send(t, g.Address(t, 0), headerOf(tt.client)).CloseWrite()
				c := b.Next(t)
				if got := lab.Peer(c); got.Addr() != tt.gateway {
					t.Errorf("plain: the backend saw %v, want the gateway's %v", got, tt.gateway)
				}
				c.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok", "transparent", "false", "client", tt.client.String(),
					"source", "", "mapped", "")
				wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(source("127.0.0.1"))))
				g.NextConnection(t).Expect(t, "outcome", "source_denied")

				g = transparentGateway(t, tt.backend, "--family-mismatch", "map")
				lab.Send(t, g.Address(t, 0), headerOf(tt.client)).CloseWrite()
				c = b.Next(t)
				if got := lab.Peer(c); got != tt.standIn {
					t.Errorf("map: the backend saw %v, want %v", got, tt.standIn)
				}
				c.Close()
				g.NextConnection(t).Expect(t, "outcome", "ok", "transparent", "true",
					"client", tt.client.String(), "source", tt.standIn.String(), "mapped", "true")
				wantMappedBehindPrefix(t, b, tt.backend, tt.client, tt.standIn)
				if n := b.Accepted(); n != 3 {
					t.Errorf("%d connections to the backend, want 3: none for rejected ones", n)
				}
			})
		}
	})
}

// wantMappedBehindPrefix expects an IPv4 client behind the prefix of --map-prefix, with the return path
// that any client has, and an IPv6 client at the stand-in that it has without the flag. A header cannot
// name the stand-in of a denied client.
func wantMappedBehindPrefix(t *testing.T, b *lab.Backend, backend string, client, standIn netip.AddrPort) {
	t.Helper()
	if client.Addr().Is4() {
		standIn = netip.MustParseAddrPort("[2001:db8:64::192.0.2.9]:4711")
	}
	g := transparentGateway(t, backend, "--family-mismatch", "map", "--map-prefix", "2001:db8:64::/96")
	conn := lab.Send(t, g.Address(t, 0), headerOf(client))
	c := b.Next(t)
	if got := lab.Peer(c); got != standIn {
		t.Errorf("map-prefix: the backend saw %v, want %v", got, standIn)
	}
	c.Write([]byte("reply"))
	wantRead(t, conn, "reply")
	c.Close()
	conn.CloseWrite()
	g.NextConnection(t).Expect(t, "transparent", "true", "client", client.String(), "source", standIn.String(), "mapped", "true")
	wantEnd(t, lab.Send(t, g.Address(t, 0), headerOf(source("2001:db8:64::127.0.0.1"))))
	g.NextConnection(t).Expect(t, "outcome", "source_denied", "reason", "stand-in of a denied IPv4 address")
}

package accesslog

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"unproxy/gateway/record"
)

// finished is an ordinary finished connection.
func finished() *record.Connection {
	return &record.Connection{
		ID: 0x2a, Forward: "0.0.0.0:8443",
		Peer:        netip.MustParseAddrPort("10.0.0.5:40112"),
		Client:      netip.MustParseAddrPort("203.0.113.9:4711"),
		Destination: netip.MustParseAddrPort("198.51.100.7:443"),
		Backend:     netip.MustParseAddrPort("127.0.0.1:22"),
		Transparent: true, Version: 2,
		Outcome: record.OK, Phase: record.Relay, By: record.Client,
		BytesIn: 1832, BytesOut: 90211,
		HeaderTime: 412 * time.Microsecond, ConnectTime: 203 * time.Microsecond, Duration: 5007123 * time.Microsecond,
		Details: &record.Details{Authority: "ssh.example.com", UniqueID: "0A000005:9CB0"},
	}
}

// BenchmarkConnection is the cost to an event loop, the ring's copy included.
func BenchmarkConnection(b *testing.B) {
	l, err := New(Config{Writer: io.Discard, Format: JSON, Instance: "c8f3a1b2"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c := finished()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

// BenchmarkLine is the cost of making the line alone.
func BenchmarkLine(b *testing.B) {
	l := bare(io.Discard)
	c := finished()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

// BenchmarkLeftOut is the cost of a refusal that a flood pushes out.
func BenchmarkLeftOut(b *testing.B) {
	l := bare(io.Discard)
	c := refused()
	b.ReportAllocs()
	for b.Loop() {
		l.Connection(c)
	}
}

package accesslog

import (
	"io"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"unproxy/gateway/record"
)

// noon is the moment at which the tests' clocks stand.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 123_000_000, time.FixedZone("", 3600))

// bare returns a log without a ring: lines go to w at once. Its clock stands.
func bare(w io.Writer) *Log {
	return &Log{
		prefix: "c8f3-", now: func() time.Time { return noon }, lines: zerolog.New(w).Level(zerolog.InfoLevel),
		floods: make([]flood, len(record.Outcomes())),
	}
}

// refused is a connection that was refused for its header.
func refused() *record.Connection {
	return &record.Connection{
		ID: 0x2b, Forward: ":25", Peer: netip.MustParseAddrPort("[2001:db8::5]:40112"),
		Outcome: record.NotProxy, Phase: record.Header, By: record.Gateway,
		Reason: "no signature", Offset: 1, Sample: []byte("EHLO \x1b[31m\r\n"),
		HeaderTime: 1500 * time.Nanosecond, Duration: 2 * time.Millisecond,
	}
}

package page_test

import (
	"net/netip"
	"testing"

	"github.com/chromedp/chromedp"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// The page bans a client, shows who, why and until when, and ends the ban. A wrong
// address is reported.
//
//	gateway :2000, admin :9180 ◀── browser
func TestPageBans(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		lab.StartGateway(t, gatewayFlags()...)
		b := open(t, origin)
		b.eventually("there is none", "!document.getElementById('no-bans').hidden")
		b.do(chromedp.SendKeys(chromedp.CSS("[name=prefix]"), "203.0.113"), chromedp.Click(chromedp.CSS("#ban button")))
		b.eventually("it says why not", "document.getElementById('said').innerText.includes('is not a prefix')")
		b.do(chromedp.SendKeys(chromedp.CSS("[name=prefix]"), ".9"), chromedp.SendKeys(chromedp.CSS("[name=reason]"), markup))
		b.do(chromedp.Click(chromedp.CSS("#ban button")))
		b.eventually("the ban is listed", "document.querySelectorAll('#bans tr').length === 1")
		b.wantText("#bans tr", "203.0.113.9", markup, "in 59 min")
		b.wantText("#ban-count", "1 ban, until the gateway stops")
		b.do(chromedp.Click(chromedp.CSS("#bans .tool button")))
		b.eventually("the ban is gone", "document.querySelectorAll('#bans tr').length === 0")
		if n := evaluate[int](b, "document.querySelectorAll('main img').length"); n != 0 {
			t.Errorf("%d texts were inserted as HTML", n)
		}
	})
}

// The page names denied clients, not the load balancer of all clients, and shows the rules
// that denied them. The banner names a backend that is down although no check is on:
//
//	2 × 203.0.113.0/24 ──header──▶ gateway :2000, denied
//	198.51.100.1 ────────header──▶ │ :2001 ──▶ nothing
//	                               └ admin :9180 ◀── browser
func TestPageShowsDeniedClientsAndDeadBackends(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		g := lab.StartGateway(t, append(gatewayFlags(), "--forward", "127.0.0.1:2001=127.0.0.1:3001",
			"--deny-client", "203.0.113.0/24", "--deny-client", "192.0.2.0/24")...)
		b := open(t, origin)
		b.eventually("it is ready", "document.getElementById('state').textContent === 'ready'")
		b.wantText("#clients", "Denied, for 127.0.0.1:2000, 127.0.0.1:2001: 2 prefixes, 0 connections", "No rule has matched")
		if !evaluate[bool](b, "document.getElementById('reasons').hidden") {
			t.Errorf("the banner is shown without a problem: %s", b.text("#reasons"))
		}
		for _, c := range []struct{ client, to, outcome string }{
			{"203.0.113.7:1111", "127.0.0.1:2000", "client_denied"},
			{"203.0.113.7:2222", "127.0.0.1:2000", "client_denied"},
			{"203.0.113.8:1111", "127.0.0.1:2000", "client_denied"},
			{"198.51.100.1:1111", "127.0.0.1:2001", "backend_refused"},
		} {
			lab.Send(t, c.to, lab.V2(netip.MustParseAddrPort(c.client), destination))
			g.NextConnection(t).Expect(t, "outcome", c.outcome)
		}
		b.eventually("all are counted", "document.getElementById('clients').innerText.includes('3 connections')"+
			" && document.getElementById('refusals').innerText.includes('backend_refused')")
		b.wantText("#clients", "203.0.113.0/24", "and 1 more prefix")
		b.wantText("#refusals", "203.0.113.7 × 2", "203.0.113.8 × 1", "client 198.51.100.1:1111", "127.0.0.1 × 1")
		b.wantText("#reasons", "Ready, but 1 forward of 2 is without a backend that works.", "backends down",
			"127.0.0.1:3001: connection refused", "127.0.0.1:2001")
		b.wantText("#state", "ready")
		for _, look := range []screen{{"", 1280, false, "light"}, {"", 360, true, "dark"}} {
			b.lookOn(look)
			b.wantLegible(look)
		}
		b.wantQuiet()
	})
}

package page_test

import (
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

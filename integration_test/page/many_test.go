package page_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/chromedp/chromedp"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// With 50 forwards, some of them in trouble, and 2000 connections, problems are on top, and
// filter and order find a forward. On a phone each row is one line:
//
//	2000 × conn ──header──▶ gateway :3001 … :3050 ──▶ backend :4000
//	                        :3007, :3031 ──✗ :4001, no listener
//	nonsense ─────────────▶ :3001 … :3020
func TestPageWithManyForwards(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		lab.Echo(t, "127.0.0.1:4000")
		flags := []string{"--trust", "127.0.0.1", "--admin", adminAt, "--log-level", "info"}
		for i := 1; i <= 50; i++ {
			backends := "127.0.0.1:4000"
			switch i {
			case 7:
				backends = "127.0.0.1:4001?backend-check=100ms"
			case 31:
				backends = "127.0.0.1:4001,127.0.0.1:4000?backend-check=100ms"
			}
			flags = append(flags, "--forward", fmt.Sprintf("127.0.0.1:%d=%s", 3000+i, backends))
		}
		lab.StartGateway(t, flags...)
		for i := range 2000 {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), uint16(10000+i))
			port := 3001 + i%6 // none of those in trouble
			lab.Send(t, fmt.Sprintf("127.0.0.1:%d", port), lab.V2(client, destination))
		}
		for i := range 20 {
			lab.Send(t, fmt.Sprintf("127.0.0.1:%d", 3001+i), []byte("GET / HTTP/1.1\r\n\r\n"))
		}
		b := open(t, origin)
		const names = "[...document.querySelectorAll('#forwards tbody tr:first-child th .text')].map((e) => e.textContent)"
		b.eventually("the forwards in trouble come first", names+".slice(0, 2).join() === '127.0.0.1:3007,127.0.0.1:3031'")
		b.wantText("#state", "degraded")
		b.wantText("#reasons", "1 forward of 50 is degraded", "backends", "127.0.0.1:3007")
		b.wantText("#forwards tbody:nth-of-type(2)", "1 down", "down, tried last: 127.0.0.1:4001")
		b.wantText("#refusals", "not_proxy", "20 connections", "and 8 more", "127.0.0.1 × 20")
		b.do(chromedp.Click(chromedp.CSS("#refusals button.chip")))
		b.wantText("#refusals", "127.0.0.1:3020 × 1")
		b.eventually("all connections are counted", "document.getElementById('matched').textContent === '25 of 2,000 connections'")
		b.do(chromedp.Evaluate[chromedp.Void]("{const s = document.querySelector('[name=limit]'); s.value = '500'; " +
			"s.dispatchEvent(new Event('input', { bubbles: true }))}"))
		b.eventually("it lists more", "document.querySelectorAll('#connections tr').length === 500")
		for _, look := range []screen{{"", 390, true, "light"}, {"", 390, true, "dark"}, {"", 820, true, "light"},
			{"", 820, false, "dark"}, {"", 1440, false, "light"}, {"", 1440, false, "dark"}} {
			b.lookOn(look)
			b.wantLegible(look)
			b.wantOneLine(look)
			b.keep("many", look)
		}
		b.do(chromedp.SendKeys(chromedp.CSS("[name=forward-filter]"), ":3031"))
		b.eventually("one matches", names+".join() === '127.0.0.1:3031'")
		b.wantText("#forward-count", "1 of 50 forwards")
		b.do(chromedp.Click(chromedp.CSS("#forwards .fold")))
		b.wantText("#forwards", "127.0.0.1:4001: down for", "tried last", "127.0.0.1:4000: up")
		b.wantQuiet()
	})
}

// wantOneLine checks that on a phone no closed row is higher than one line with a button.
func (b *browser) wantOneLine(look screen) {
	b.Helper()
	if look.width > 800 {
		return
	}
	const high = "Math.max(...[...document.querySelectorAll('#forwards tbody tr:first-child, #connections tr')]" +
		".map((e) => Math.round(e.getBoundingClientRect().height)))"
	if got := evaluate[int](b, high); got > 50 {
		b.Errorf("%+v: a closed row is %d pixels high", look, got)
	}
}

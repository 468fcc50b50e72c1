package page_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

const (
	adminAt = "127.0.0.1:9180"
	origin  = "http://" + adminAt
)

// markup is a text that does harm if a page inserts it as HTML.
const markup = `<img src=x onerror="document.title='taken over'">`

var destination = netip.MustParseAddrPort("198.51.100.1:443")

// authority returns the TLV of a host name, which the client chooses (section 2.2.2 of the
// specification).
func authority(name string) []byte {
	return append([]byte{0x02, byte(len(name) >> 8), byte(len(name))}, name...)
}

// gatewayFlags returns the flags of a gateway with one forward.
func gatewayFlags() []string {
	return []string{"--forward", "127.0.0.1:2000=127.0.0.1:3000", "--trust", "127.0.0.1", "--admin", adminAt}
}

// The page shows connections and refusals without interpreting text from clients. It
// filters connections and cuts the selected one:
//
//	3 × conn ──header──▶ gateway :2000 ──▶ backend :3000
//	nonsense ──────────▶ │ └ admin :9180 ◀── browser
func TestPageShowsFiltersAndCuts(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		backend := lab.Listen(t, "127.0.0.1:3000")
		g := lab.StartGateway(t, gatewayFlags()...)
		b := open(t, origin)
		b.eventually("it is ready", "document.getElementById('state').textContent === 'ready'")
		b.wantText("main", "No open connections.", "No connection was refused.", "Not run since the start.")

		var conns, behind []*net.TCPConn
		for i, client := range []string{"203.0.113.7:1111", "203.0.113.8:2222", "192.0.2.9:4711"} {
			header := lab.V2(netip.MustParseAddrPort(client), destination, authority(markup+"\u202e")...)
			conns = append(conns, lab.Send(t, "127.0.0.1:2000", header, make([]byte, 1000*(i+1))))
			behind = append(behind, backend.Next(t))
		}
		lab.Send(t, "127.0.0.1:2000", []byte(markup))
		g.NextConnection(t).Expect(t, "outcome", "not_proxy")
		b.eventually("three connections are listed", "document.querySelectorAll('#connections tr').length === 3")
		b.wantText("#connections tr:nth-child(3)", "192.0.2.9:4711", conns[2].LocalAddr().String(), "127.0.0.1:3000", "3 kB",
			markup+`\u{202e}`)
		b.wantText("#forwards", "127.0.0.1:2000", "127.0.0.1:3000")
		b.wantText("#refusals", "127.0.0.1 × 1", "127.0.0.1:2000 × 1", "not_proxy", `"<img src=x onerror=`, "enable the PROXY protocol on the load balancer")
		b.wantText("#trust", "127.0.0.1", "--trust", "4")
		if n := evaluate[int](b, "document.querySelectorAll('main img').length"); n != 0 {
			t.Errorf("%d texts were inserted as HTML", n)
		}
		b.eventually("the plots are drawn", "document.querySelectorAll('.series[d^=M]').length >= 5")
		b.wantText(".plot:nth-child(2)", "3")

		b.do(chromedp.SendKeys(chromedp.CSS("[name=client]"), "203.0.113.0/24"))
		b.eventually("two match", "document.querySelectorAll('#connections tr').length === 2")
		b.do(chromedp.Focus(chromedp.CSS("[name=sort]")), chromedp.KeyEvent("t")) // for traffic
		b.eventually("it sorts by traffic", "document.querySelector('[name=sort]').value === 'bytes'")
		b.eventually("the larger one is the first", "document.querySelector('#connections tr').innerText.includes('203.0.113.8')")

		const first = "#connections tr:first-child .tool button"
		b.do(chromedp.Focus(chromedp.CSS(first)), chromedp.KeyEvent(kb.Enter))
		b.wantText("#cut", "203.0.113.8:2222", "Cancel")
		b.do(chromedp.KeyEvent(kb.Escape))
		b.eventually("the dialog is closed and the focus is back",
			fmt.Sprintf("!document.getElementById('cut').open && document.activeElement === document.querySelector(%q)", first))
		b.do(chromedp.Click(chromedp.CSS(first)), chromedp.Click(chromedp.CSS("#cut .danger")))
		b.eventually("it says so", "document.getElementById('said').innerText.includes('was cut')")
		if line := g.NextConnection(t); line.String("client") != "203.0.113.8:2222" || line.String("reason") != "cut by the operator" {
			t.Errorf("this was cut: %v", line)
		}
		b.eventually("one matching connection remains", "document.querySelectorAll('#connections tr').length === 1")
		for i := range conns {
			if i != 1 {
				wantCarried(t, conns[i], behind[i], 1000*(i+1))
			}
		}
		b.wantQuiet()
	})
}

// wantCarried reads size bytes that were sent before, and some that it sends.
func wantCarried(t *testing.T, conn, behind *net.TCPConn, size int) {
	t.Helper()
	if _, err := conn.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size+len("still here"))
	for n := 0; n < len(got); {
		read, err := behind.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += read
	}
}

// When the gateway is down, the page says so and since when, and keeps showing the last
// state. It continues when the gateway is back:
//
//	browser ──▶ admin :9180 of a gateway, of none, of another one
func TestPageOutlivesTheGateway(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		g := lab.StartGateway(t, gatewayFlags()...)
		b := open(t, origin)
		b.eventually("it is ready", "document.getElementById('state').textContent === 'ready'")
		g.Signal(syscall.SIGTERM)
		g.Wait(t)
		b.eventually("there is no status", "document.getElementById('state').textContent === 'no status'")
		b.wantText("#trouble", "No status from the gateway since", "Retry now")
		b.wantText("#forwards", "127.0.0.1:3000")
		b.eventually("the interval between requests grows",
			"/in (8|16) s/.test(document.querySelector('#trouble button').textContent)")
		lab.StartGateway(t, gatewayFlags()...)
		b.do(chromedp.Click(chromedp.CSS("#trouble button")))
		b.eventually("it is ready again", "document.getElementById('state').textContent === 'ready'")
		b.wantText("#said", "was restarted")
		if !evaluate[bool](b, "document.getElementById('trouble').hidden") {
			t.Error("the page still reports trouble")
		}
		b.wantNoRequestsWhileHidden()
		b.wantQuiet("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
	})
}

// Without a return path the page says that the gateway is not ready and why, and shows the
// commands that fix it, legibly:
//
//	gateway :2000, transparent, without rules ──▶ backend :3000
//	└ admin :9180 ◀── browser
func TestPageShowsProblems(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		lab.Listen(t, "127.0.0.1:3000")
		lab.StartGateway(t, "--forward", "127.0.0.1:2000=127.0.0.1:3000?transparent=on", "--trust", "127.0.0.1",
			"--admin", adminAt)
		b := open(t, origin)
		b.eventually("the return path was tested", "document.getElementById('reasons').innerText.includes('return_path')")
		b.wantText("#state", "not ready")
		b.wantText("#findings", "failed", "return path 127.0.0.1:3000", "ip rule add from 127.0.0.1/32", "Copy")
		b.wantText("#reasons", "return_path", "127.0.0.1:2000", "ip rule add from 127.0.0.1/32", "Copy")
		for _, look := range []screen{{"", 1280, false, "light"}, {"", 360, true, "dark"}} {
			b.lookOn(look)
			b.wantLegible(look)
			b.keep("problems", look)
		}
		b.wantQuiet()
	})
}

// wantNoRequestsWhileHidden checks that a hidden page stops polling, and polls at once when
// it is visible again.
func (b *browser) wantNoRequestsWhileHidden() {
	b.Helper()
	const asked = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('status.json')).length"
	const hide = `(hidden) => {
		Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
		document.dispatchEvent(new Event('visibilitychange'));
		document.querySelector('#trouble button').click(); // which requests at once otherwise
		return ` + asked + `;
	}`
	b.eventually("the page waits between two requests",
		asked+" > 0 && performance.now() - performance.getEntriesByType('resource').at(-1).responseEnd > 100")
	before := evaluate[int](b, asked)
	evaluate[int](b, "("+hide+")(true)")
	if after := evaluate[int](b, "new Promise((done) => setTimeout(() => done("+asked+"), 2500))"); after != before {
		b.Errorf("a hidden page has sent %d requests", after-before)
	}
	evaluate[int](b, "("+hide+")(false)")
	b.eventually("the page polls again", fmt.Sprintf("%s > %d", asked, before))
}

// picturesVariable is the environment variable with a directory for pictures of the page.
// If it is set, the scene lasts until the plots are full.
const picturesVariable = "PAGE_PICTURES"

// On every screen the whole page is legible and needs no horizontal scrolling:
//
//	clients ──▶ 10.0.0.2, 10.0.0.3 ──header──▶ gateway ──▶ three backends
//	untrusted peers ────────────────────────▶ │ └ admin :9180 ◀── browser
func TestPageOnScreens(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		lab.Require(t, program)
		pictures := os.Getenv(picturesVariable)
		s := play(t, pictures != "")
		b := open(t, origin)
		b.eventually("it is ready", "document.getElementById('state').textContent === 'ready'")
		s.last(t)
		b.do(chromedp.Click(chromedp.CSS("#examine")))
		b.eventually("the doctor has found something", "document.querySelectorAll('#passed li').length > 5")
		b.eventually("the plots are drawn", "document.querySelectorAll('.series[d^=M]').length >= 8")
		b.wantKeyboard()
		for _, look := range []screen{
			{"page-light", 1280, false, "light"}, {"page-dark", 1280, false, "dark"}, {"page-phone", 360, true, "light"},
			{"", 360, true, "dark"}, {"", 390, true, "light"}, {"", 640, true, "light"}, {"", 820, true, "light"},
			{"", 1000, false, "dark"}, {"", 1440, false, "light"},
		} {
			b.lookOn(look)
			b.wantLegible(look)
			b.keep("scene", look)
			if pictures != "" && look.name != "" {
				b.picture(filepath.Join(pictures, look.name+".png"))
			}
		}
		b.wantQuiet()
	})
}

// wantKeyboard moves through the page with the Tab key, and checks that the focus is always
// visible and reaches all controls.
func (b *browser) wantKeyboard() {
	b.Helper()
	const here = `(() => {
		if (document.activeElement === document.body) return 'the browser itself';
		const e = document.activeElement, style = getComputedStyle(e);
		const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && e.getBoundingClientRect().width > 1;
		return (seen ? '' : 'invisible ') + (e.id || e.name || e.textContent);
	})()`
	var visited []string
	for range 90 {
		b.do(chromedp.KeyEvent(kb.Tab))
		at := evaluate[string](b, here)
		if visited = append(visited, at); strings.HasPrefix(at, "invisible ") {
			b.Errorf("the focus is not visible at %.80q", at)
		}
	}
	for _, place := range []string{"Skip to the status", "client", "forward", "sort", "limit", "Cut", "examine", "Copy",
		"metrics"} {
		if !slices.Contains(visited, place) {
			b.Errorf("the Tab key does not reach %q, only %.40q", place, visited)
		}
	}
}

// wantLegible checks that nothing is wider than the screen and no text has low contrast.
func (b *browser) wantLegible(look screen) {
	b.Helper()
	if over := evaluate[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		b.Errorf("%+v: %d pixels wider than the screen: %v", look, over, evaluate[[]string](b, beyondTheEdge))
	}
	if faint := evaluate[[]string](b, lowContrast); len(faint) > 0 {
		b.Errorf("%+v: low contrast:\n%s", look, strings.Join(faint, "\n"))
	}
}

// looksVariable is the environment variable with a directory for pictures of every look
// that the tests take, to look at them.
const looksVariable = "PAGE_LOOKS"

// keep writes a picture of the first screens of the page if looksVariable is set.
func (b *browser) keep(name string, look screen) {
	b.Helper()
	if dir := os.Getenv(looksVariable); dir != "" {
		b.picture(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, look.width, look.scheme)))
	}
}

// picture writes a picture of the page.
func (b *browser) picture(path string) {
	b.Helper()
	b.do(chromedp.Evaluate[chromedp.Void]("document.activeElement.blur()"))
	whole := get(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(path, inFewColours(b.T, whole), 0o644); err != nil {
		b.Fatal(err)
	}
}

// inFewColours reduces the size of a picture: it keeps the 128 most frequent colours and at
// most 2300 lines.
func inFewColours(t *testing.T, whole []byte) []byte {
	t.Helper()
	from, err := png.Decode(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	size := image.Rect(0, 0, from.Bounds().Dx(), min(from.Bounds().Dy(), 2300))
	counts := map[color.Color]int{}
	for y := range size.Dy() {
		for x := range size.Dx() {
			counts[from.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	few := image.NewPaletted(size, colours[:min(len(colours), 128)])
	draw.Draw(few, size, from, image.Point{}, draw.Src)
	var small bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&small, few); err != nil {
		t.Fatal(err)
	}
	return small.Bytes()
}

// beyondTheEdge lists the elements that are wider than the screen.
const beyondTheEdge = `[...document.querySelectorAll('body *')]
	.filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth)
	.map((e) => e.outerHTML.slice(0, 100))`

// lowContrast lists the texts with a contrast below 4.5 (WCAG 2.2, success criterion 1.4.3,
// and its definitions of contrast ratio and relative luminance).
const lowContrast = `(() => {
	const parse = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => {
		const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
			if (a === 1) return [r, g, b];
			if (a > 0) throw new Error('see-through: ' + e.outerHTML.slice(0, 100));
		}
		throw new Error('no background');
	};
	const faint = new Set();
	let looked = 0;
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !e.checkVisibility()) continue;
		looked++;
		const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(ground(e))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) faint.add(ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 100));
	}
	if (looked < 40) throw new Error('only ' + looked + ' texts');
	return [...faint];
})()`

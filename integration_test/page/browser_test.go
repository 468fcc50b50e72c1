package page_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"unproxy/integration_test/await"
)

// program is the browser, without which the tests are skipped.
const program = "chromium"

// browser is a Chromium with one page open, that of origin.
type browser struct {
	*testing.T
	ctx    context.Context
	origin string

	mu sync.Mutex
	// left are the addresses outside origin that were asked for, and complaints
	// what the console was told.
	left, complaints []string
}

// open starts a browser and has it load a page.
func open(t *testing.T, origin string) *browser {
	t.Helper()
	ctx, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(program), chromedp.UserDataDir(profile(t)),
		chromedp.WSURLReadTimeout(await.Patience),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true))
	t.Cleanup(cancel) // waits for the browser's end
	b := &browser{T: t, origin: origin}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.note))
	t.Cleanup(cancel)
	defer time.AfterFunc(await.Patience, cancel).Stop()
	if err := chromedp.Do(b.ctx); err != nil { // the browser lasts as long as the context of this
		t.Fatalf("start the browser: %v", err)
	}
	b.do(command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}),
		chromedp.EmulateViewport(1280, 900), chromedp.Navigate(origin+"/"))
	return b
}

// command is the action that gives the browser a command of its protocol.
func command[P, R any](c cdp.Command[P, R], parameters P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, parameters)
		return err
	})
}

// profile makes an empty folder for the browser. Its last processes may still
// write there when it has ended.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unproxy-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		await.For(t, func() bool { return os.RemoveAll(dir) == nil })
	})
	return dir
}

// note takes in what happens in the browser.
func (b *browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u := e.Request.URL; !strings.HasPrefix(u, b.origin+"/") && !strings.HasPrefix(u, "data:") {
			b.left = append(b.left, u)
		}
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	}
}

// wantQuiet fails the test for what the browser's console was told, unless it
// contains one of the texts, and for requests that left the origin.
func (b *browser) wantQuiet(expected ...string) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.left {
		b.Errorf("the page asked for %s", u)
	}
next:
	for _, c := range b.complaints {
		for _, e := range expected {
			if strings.Contains(c, e) {
				continue next
			}
		}
		b.Errorf("the browser says %s", c)
	}
}

// do makes the browser do something.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	get(b, chromedp.Steps(steps...))
}

// get makes the browser do something that has a result.
func get[T any](b *browser, action chromedp.Action[T]) T {
	b.Helper()
	ctx, cancel := context.WithDeadline(b.ctx, await.Deadline(b))
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.Fatal(err)
	}
	return value
}

// evaluate returns the value of an expression in JavaScript; of a promise, what
// becomes of it.
func evaluate[T any](b *browser, expression string) T {
	b.Helper()
	return get(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// eventually waits until an expression is true.
func (b *browser) eventually(what, expression string) {
	b.Helper()
	if !await.For(b, func() bool { return evaluate[bool](b, expression) }) {
		b.Fatalf("still not so: %s. The page is\n%s", what, evaluate[string](b, "document.body.innerText"))
	}
}

// text returns what the first element that a selector matches shows.
func (b *browser) text(selector string) string {
	b.Helper()
	return evaluate[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? 'no '+%[1]q", selector))
}

// wantText wants the texts in what the first element that a selector matches
// shows.
func (b *browser) wantText(selector string, texts ...string) {
	b.Helper()
	shown := b.text(selector)
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			b.Errorf("%s shows\n%s\nwithout %q", selector, shown, text)
		}
	}
}

// screen is what a page is looked at on.
type screen struct {
	name   string
	width  int64
	mobile bool
	scheme string // light or dark
}

// lookOn changes the screen.
func (b *browser) lookOn(s screen) {
	b.Helper()
	height := int64(900)
	if s.mobile {
		height = 740
	}
	b.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: s.width, Height: height, DeviceScaleFactor: 1, Mobile: s.mobile}),
		command(emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: s.mobile}),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: s.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}}))
}

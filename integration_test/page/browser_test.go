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

// program is the browser. Without it the tests are skipped.
const program = "chromium"

// browser is a Chromium with one page of origin open.
type browser struct {
	*testing.T
	ctx    context.Context
	origin string

	mu sync.Mutex
	// foreign are the URLs outside origin that were requested, and complaints the
	// messages of the console.
	foreign, complaints []string
}

// open starts a browser and loads the page.
func open(t *testing.T, origin string) *browser {
	t.Helper()
	ctx, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(program), chromedp.UserDataDir(profile(t)),
		chromedp.WSURLReadTimeout(await.Patience),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true))
	t.Cleanup(cancel) // waits until the browser has ended
	b := &browser{T: t, origin: origin}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.note))
	t.Cleanup(cancel)
	defer time.AfterFunc(await.Patience, cancel).Stop()
	if err := chromedp.Do(b.ctx); err != nil { // the browser runs until the context of this call ends
		t.Fatalf("start the browser: %v", err)
	}
	b.do(command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}),
		chromedp.EmulateViewport(1280, 900), chromedp.Navigate(origin+"/"))
	return b
}

// command returns the action that sends the browser a command of its protocol.
func command[P, R any](c cdp.Command[P, R], parameters P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, parameters)
		return err
	})
}

// profile makes an empty directory for the browser. Its last processes can still write
// there after it has ended.
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

// note records the events of the browser.
func (b *browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u := e.Request.URL; !strings.HasPrefix(u, b.origin+"/") && !strings.HasPrefix(u, "data:") {
			b.foreign = append(b.foreign, u)
		}
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	}
}

// wantQuiet fails the test for console messages that contain none of the expected texts,
// and for requests outside the origin.
func (b *browser) wantQuiet(expected ...string) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.foreign {
		b.Errorf("the page requested %s", u)
	}
next:
	for _, c := range b.complaints {
		for _, e := range expected {
			if strings.Contains(c, e) {
				continue next
			}
		}
		b.Errorf("the browser reports %s", c)
	}
}

// do runs actions in the browser.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	get(b, chromedp.Steps(steps...))
}

// get runs an action in the browser and returns its result.
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

// evaluate returns the value of a JavaScript expression. For a promise it is the result.
func evaluate[T any](b *browser, expression string) T {
	b.Helper()
	return get(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// eventually waits until a JavaScript expression is true.
func (b *browser) eventually(what, expression string) {
	b.Helper()
	if !await.For(b, func() bool { return evaluate[bool](b, expression) }) {
		b.Fatalf("not true: %s. The page is\n%s", what, evaluate[string](b, "document.body.innerText"))
	}
}

// text returns the text of the first element that matches a selector.
func (b *browser) text(selector string) string {
	b.Helper()
	return evaluate[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? 'no '+%[1]q", selector))
}

// wantText checks that the first element that matches a selector contains the texts.
func (b *browser) wantText(selector string, texts ...string) {
	b.Helper()
	shown := b.text(selector)
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			b.Errorf("%s is\n%s\nwithout %q", selector, shown, text)
		}
	}
}

// screen is a kind of screen.
type screen struct {
	name   string
	width  int64
	mobile bool
	scheme string // light or dark
}

// lookOn sets the screen.
func (b *browser) lookOn(s screen) {
	b.Helper()
	height := int64(900)
	if s.mobile {
		height = 740
	}
	b.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: s.width,
		Height: height, DeviceScaleFactor: 1, Mobile: s.mobile}),
		command(emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: s.mobile}),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: s.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}}))
}

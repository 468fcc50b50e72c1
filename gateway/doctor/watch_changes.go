package doctor

import (
	"context"
	"errors"
	"time"

	"unproxy/transparent/routing"
)

const (
	// resubscribeAfter is the time from the failure of a subscription to the next.
	resubscribeAfter = 10 * time.Second
	// changesAtLeast is when changes are assumed without an event.
	changesAtLeast = time.Hour
)

// hostChanges implements [Host.Changes].
func hostChanges(ctx context.Context, changed func()) {
	for {
		if watch, err := routing.WatchAddresses(); err == nil {
			follow(ctx, watch, changed)
		}
		if !sleep(ctx, resubscribeAfter) {
			return
		}
		changed() // events may have been missed
	}
}

// follow calls changed after each event until ctx is done or the watch fails.
func follow(ctx context.Context, watch *routing.AddressWatch, changed func()) {
	stop := context.AfterFunc(ctx, watch.Close)
	defer func() {
		if stop() {
			watch.Close()
		}
	}()
	for {
		err := watch.Wait(changesAtLeast)
		if ctx.Err() != nil || err != nil && !errors.Is(err, routing.ErrEventsLost) {
			return
		}
		changed()
	}
}

package gateway

import (
	"slices"
	"sync"
	"testing"
)

func TestReadiness(t *testing.T) {
	var r Readiness
	if got := r.Reasons(); len(got) != 0 {
		t.Fatalf("the zero value gives %v; want ready", got)
	}
	r.Clear(NotReadyStarting)
	for _, reason := range []string{"zebra", NotReadyReturnPath, NotReadyDescriptors, "ant", NotReadyDraining, NotReadyStarting} {
		r.Set(reason, "once")
	}
	r.Set(NotReadyReturnPath, "twice")
	want := []NotReady{
		{NotReadyStarting, "once"}, {NotReadyDraining, "once"}, {NotReadyDescriptors, "once"},
		{NotReadyReturnPath, "twice"}, {"ant", "once"}, {"zebra", "once"},
	}
	got := r.Reasons()
	if !slices.Equal(got, want) {
		t.Errorf("reasons %v; want %v", got, want)
	}
	got[0].Reason = "changed by its owner"
	r.Clear(NotReadyDraining)
	if got, want := r.Reasons(), append(want[:1:1], want[2:]...); !slices.Equal(got, want) {
		t.Errorf("after one was cleared %v; want %v", got, want)
	}
}

// The race detector is the judge.
func TestReadinessConcurrently(t *testing.T) {
	var r Readiness
	var all sync.WaitGroup
	for _, reason := range notReadyOrder {
		all.Go(func() {
			for range 100 {
				r.Set(reason, "here")
				r.Reasons()
				r.Clear(reason)
			}
		})
	}
	all.Wait()
	if got := r.Reasons(); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

package readiness

import (
	"slices"
	"sync"
	"testing"
)

func TestReadiness(t *testing.T) {
	var r State
	if got := r.Reasons(); len(got) != 0 {
		t.Fatalf("the zero value gives %v; want ready", got)
	}
	r.Clear(Starting)
	for _, reason := range []string{"zebra", ReturnPath, Descriptors, "ant", Draining, Starting} {
		r.Set(reason, "once")
	}
	r.Set(ReturnPath, "twice")
	want := []Reason{
		{Starting, "once"}, {Draining, "once"}, {Descriptors, "once"},
		{ReturnPath, "twice"}, {"ant", "once"}, {"zebra", "once"},
	}
	got := r.Reasons()
	if !slices.Equal(got, want) {
		t.Errorf("reasons %v; want %v", got, want)
	}
	got[0].Word = "changed by its owner"
	r.Clear(Draining)
	if got, want := r.Reasons(), append(want[:1:1], want[2:]...); !slices.Equal(got, want) {
		t.Errorf("after one was cleared %v; want %v", got, want)
	}
}

// The race detector finds the faults.
func TestReadinessConcurrently(t *testing.T) {
	var r State
	var all sync.WaitGroup
	for _, reason := range order {
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

package readiness

import (
	"slices"
	"sync"
	"testing"
)

func TestReadiness(t *testing.T) {
	var r State
	if got := r.Report(0).Reasons; len(got) != 0 {
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
	got := r.Report(0).Reasons
	if !slices.Equal(got, want) {
		t.Errorf("reasons %v; want %v", got, want)
	}
	got[0].Word = "changed by its owner"
	r.Clear(Draining)
	if got, want := r.Report(0).Reasons, append(want[:1:1], want[2:]...); !slices.Equal(got, want) {
		t.Errorf("after one was cleared %v; want %v", got, want)
	}
}

// The race detector must find nothing.
func TestReadinessConcurrently(t *testing.T) {
	var r State
	var all sync.WaitGroup
	for _, reason := range order {
		all.Go(func() {
			for range 100 {
				r.Set(reason, "here")
				r.Report(1)
				r.SetProblems(reason, []Problem{{Forward: 0, Detail: "here"}})
				r.Clear(reason)
				r.SetProblems(reason, nil)
			}
		})
	}
	all.Wait()
	if got := r.Report(0).Reasons; len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

// What one forward lacks does not make the others unready.
func TestReadinessOfForwards(t *testing.T) {
	problem := func(forward int, serves bool) Problem {
		return Problem{forward, "the detail of " + string(rune('a'+forward)), serves}
	}
	const a, b = "the detail of a", "the detail of b"
	for _, tt := range []struct {
		name                   string
		reason                 string
		problems               []Problem
		none, notAll, impaired []Reason
	}{
		{"nothing", "", nil, nil, nil, nil},
		{"one broken", "", []Problem{problem(1, false)}, nil, []Reason{{ReturnPath, b}}, []Reason{{ReturnPath, b}}},
		{"one with fewer backends", "", []Problem{problem(0, true)}, nil, nil, []Reason{{ReturnPath, a}}},
		{"both with fewer backends", "", []Problem{problem(0, true), problem(1, true)}, nil, nil,
			[]Reason{{ReturnPath, a + "; and 1 of other forwards"}}},
		{"all broken", "", []Problem{problem(0, false), problem(1, false)}, []Reason{{ReturnPath, a + "; and 1 of other forwards"}},
			[]Reason{{ReturnPath, a + "; and 1 of other forwards"}}, []Reason{{ReturnPath, a + "; and 1 of other forwards"}}},
		{"one broken of a draining gateway", Draining, []Problem{problem(1, false)}, []Reason{{Draining, "stop"}},
			[]Reason{{Draining, "stop"}, {ReturnPath, b}}, []Reason{{Draining, "stop"}, {ReturnPath, b}}},
		{"a forward that is not there", "", []Problem{problem(2, false)}, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s State
			if tt.reason != "" {
				s.Set(tt.reason, "stop")
			}
			s.SetProblems(ReturnPath, tt.problems)
			r := s.Report(2)
			for name, got := range map[string][2][]Reason{
				"none": {r.None(), tt.none}, "not all": {r.NotAll(), tt.notAll}, "impaired": {r.Impaired(), tt.impaired},
			} {
				if !slices.Equal(got[0], got[1]) {
					t.Errorf("%s: %v, want %v", name, got[0], got[1])
				}
			}
			s.SetProblems(ReturnPath, nil)
			if got := s.Report(2).Impaired(); len(got) != len(r.Reasons) {
				t.Errorf("after the end of all problems %v", got)
			}
		})
	}
}

// The parts of a report are those of the forwards that were asked for.
func TestReportFor(t *testing.T) {
	var s State
	s.SetProblems(ReturnPath, []Problem{{Forward: 1, Detail: "broken"}})
	r := s.Report(3)
	for _, tt := range []struct {
		forwards []int
		broken   bool
	}{{[]int{0}, false}, {[]int{1}, true}, {[]int{2}, false}, {[]int{0, 1}, true}, {[]int{0, 2}, false}} {
		if got := len(r.For(tt.forwards).NotAll()) > 0; got != tt.broken {
			t.Errorf("forwards %v: broken %v", tt.forwards, got)
		}
	}
}

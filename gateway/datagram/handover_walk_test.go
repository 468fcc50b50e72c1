package datagram

import "testing"

// A walk over the flows ends where the table became empty, and smaller, between two turns.
func TestWalkOfATableThatShrank(t *testing.T) {
	w := &worker{}
	visited := func(*flow) { t.Error("there is no flow to visit") }
	for _, number := range []int{0, stepFlows, 5 * stepFlows} {
		if next := w.someFlows(number, visited); next != -1 {
			t.Errorf("from flow %d on: %d, want -1", number, next)
		}
	}
}

// Package allocations counts what a function allocates in a way that the rest
// of the test binary cannot disturb.
package allocations

import "testing"

// attempts is how many measurements are made before a count is believed.
const attempts = 20

// PerRun returns how many allocations a call of f makes, by
// [testing.AllocsPerRun] over the number of calls: the least of several
// measurements, so it is 0 as soon as one of them is.
//
// One measurement alone may count too many. The runtime counts what all
// goroutines allocate, and with the race detector [sync.Pool] drops a quarter
// of what is put into it, at random. Neither makes every measurement too large.
func PerRun(runs int, f func()) float64 {
	least := testing.AllocsPerRun(runs, f)
	for i := 1; i < attempts && least > 0; i++ {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}

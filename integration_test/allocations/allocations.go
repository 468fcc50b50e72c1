// Package allocations counts the allocations of a function. Other goroutines do not
// disturb the count.
package allocations

import "testing"

// attempts is the number of measurements before a count is final.
const attempts = 20

// PerRun returns the number of allocations per call of f. It is the minimum of several
// results of [testing.AllocsPerRun] for the number of runs, so it is 0 if one of them is.
//
// A single result can be too large: the runtime counts the allocations of all goroutines,
// and with the race detector [sync.Pool] drops a quarter of its objects at random.
// Neither happens in every measurement.
func PerRun(runs int, f func()) float64 {
	least := testing.AllocsPerRun(runs, f)
	for i := 1; i < attempts && least > 0; i++ {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}

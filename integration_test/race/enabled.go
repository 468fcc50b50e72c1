//go:build race

package race

// Enabled reports whether the test binary has the race detector.
const Enabled = true

// Package race says what tests need to know about the race detector.
package race

import "os"

// NoPause is the environment variable, with its value, that ends a process at once.
// A program with the race detector sleeps for a second at its end otherwise.
func NoPause() string { return "GORACE=" + os.Getenv("GORACE") + " atexit_sleep_ms=0" }

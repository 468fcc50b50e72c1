// Package lab starts what an integration test needs around it: the gateway
// itself, built once for all tests; servers and load balancers that do not know
// they are being tested; and small backends and peers of the test's own.
//
// Whatever is started ends with the test, and what it printed is shown when the
// test fails. Waiting is bounded everywhere, and no test sleeps.
package lab

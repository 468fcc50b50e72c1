// Package lab starts what an integration test needs: the gateway, built once for
// all tests; real servers and load balancers; and small backends and peers in the
// test itself.
//
// Everything ends with the test, and its output is shown if the test fails. Every
// wait is bounded as in package await, and no test sleeps.
package lab

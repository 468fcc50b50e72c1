// Package transparent connects to a backend from the client's own address, so
// that the backend's getpeername(2), logs and access rules see the client
// instead of the gateway.
//
// It has two independent parts:
//
//   - Choosing the source address. [Policy.Choose] is a pure function of client
//     and backend. It rejects sources that a header must never name: Linux turns
//     several of them into 127.0.0.1.
//   - Binding a socket to it. [Bind] sets the options and binds; [RetryBind] and
//     [RetryConnect] classify the errors that another source port avoids; [Check]
//     tests at startup whether the process has the privileges.
//
// The return path of the backend's replies depends on the host's routes, not on
// the socket; see packages returnpath and routing.
//
// Transparent connections need CAP_NET_RAW. Keeping a client port below 1024
// also needs CAP_NET_BIND_SERVICE.
package transparent

// Package transparent connects to a backend from the client's own address, so
// that the backend's getpeername(2), its logs and its access rules see the
// client although the gateway opened the socket.
//
// It answers two questions, each on its own:
//
//   - From which address? [Policy.Choose] is a pure function of client and
//     backend. It refuses the sources that must never be named by a header:
//     Linux turns several of them into 127.0.0.1.
//   - How is a socket bound to it? [Bind] sets the options and binds;
//     [RetryBind] and [RetryConnect] say which errors another source port
//     would mend; [Check] tells at start whether the process may do it at all.
//
// How the replies come back is a matter of the host's routes, not of the socket:
// see packages returnpath and routing.
//
// CAP_NET_RAW is enough, but for client ports below 1024, which take
// CAP_NET_BIND_SERVICE to be kept.
package transparent

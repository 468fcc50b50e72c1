// Package transparent connects to a backend from the client's own address, so
// that the backend's getpeername(2), its logs and its access rules see the
// client although the gateway opened the socket.
//
// It answers three questions, each on its own:
//
//   - From which address? [Policy.Choose] is a pure function of client and
//     backend. It refuses the sources that must never be named by a header:
//     Linux turns several of them into 127.0.0.1.
//   - How is a socket bound to it? [Bind] sets the options and binds;
//     [RetryBind] and [RetryConnect] say which errors another source port
//     would mend; [Check] tells at start whether the process may do it at all.
//   - How do the replies come back? The backend answers the client's address,
//     so the host must route those packets to the gateway. [ReturnPath] is the
//     list of rules and routes that does so on one host.
//
// CAP_NET_RAW is enough for all but the routes, which need CAP_NET_ADMIN, and
// client ports below 1024, which need CAP_NET_BIND_SERVICE to be kept.
package transparent

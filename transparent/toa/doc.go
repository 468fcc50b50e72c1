// Package toa carries a client's address in a TCP option: a gateway connects from its own address, and
// BPF programs on the backend's host make accept(2) and getpeername(2) return the client's. It needs no
// routes, no packet filter and no capability in the gateway's process.
//
// The programs and the commands that attach them are in package attach. This package has what both ends
// share: the bytes of the options, and the socket option by which a gateway talks to the programs on its
// own host.
//
// # Negotiation
//
// The gateway's SYN carries an offer. A backend's host whose programs cover the listener, the port and
// this gateway answers it with a promise in the SYN-ACK. Only then does the gateway send the client's
// address, in every packet from the one that completes the handshake until the backend has acknowledged
// a byte or sent one. Without a promise the gateway resets the connection before it sends a byte of
// payload.
//
// # Options
//
// The options have the format of shared experiments (RFC 6994): kind 254, a length, and the 16 bits
// 0x5550, which tell this use from others and are not registered with IANA. Numbers are in network byte
// order.
//
//	offer, promise   fe 04 55 50                                       in the SYN, in the SYN-ACK
//	IPv4 client      fe 0a 55 50 PORT(2) ADDRESS(4)                    afterwards
//	IPv6 client      fe 16 55 50 PORT(2) ADDRESS(16)
//
// The formats of the TOA kernel modules have no experiment identifier and know no negotiation:
//
//	IPv4 client      fe 08 PORT(2) ADDRESS(4)
//	IPv6 client      fd 14 PORT(2) ADDRESS(16), also seen with kind fe
//
// # Socket option
//
// The programs on the gateway's host take the client by setsockopt(2) and answer by getsockopt(2), with
// level [Level] and name [OptionClient]. No protocol has that level: where no program is attached, the
// kernel says ENOPROTOOPT. The value to set is 24 bytes:
//
//	offset  size  content                                              struct in C
//	0       2     AF_INET or AF_INET6, native byte order               __u16 family
//	2       2     port, network byte order                             __u16 port
//	4       16    address, network byte order; IPv4 in the first 4     __u32 ip[4]
//	20      4     [Format], native byte order                          __u32 mode
//
// It can be set once or more before connect(2). The value to get is 8 bytes:
//
//	offset  size  content                                              struct in C
//	0       1     1: the backend's host has promised                   __u8 promised
//	1       1     1: the backend has acknowledged a byte after the     __u8 acknowledged
//	              SYN, or sent one
//	2       2     0                                                    __u16 pad
//	4       4     packets that have carried the address, native order  __u32 written
//
// For a socket without a client the programs refuse getsockopt(2) with EPERM.
package toa

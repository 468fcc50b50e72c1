// SPDX-License-Identifier: Apache-2.0
//
// The option on the wire, and the client that it names. RFC 6994: kind 254, then an
// experiment identifier of two bytes.
//
//	offer, promise  fe 04 55 50                 in the SYN, in the SYN-ACK
//	IPv4 client     fe 0a 55 50 port address    in what follows the promise
//	IPv6 client     fe 16 55 50 port address
//
// The legacy formats of kernel modules have no identifier and no promise:
//
//	IPv4 client     fe 08 port address
//	IPv6 client     fd 14 port address, with some modules fe 14 port address
#ifndef UNPROXY_TOA_OPTION_H
#define UNPROXY_TOA_OPTION_H

#include "kernel.h"

#define KIND 254
#define KIND_OTHER 253
#define EXPERIMENT 0x5055 // 55 50 on the wire
#define LENGTH_HELLO 4
#define LENGTH_4 10
#define LENGTH_6 22
#define LENGTH_LEGACY_4 8
#define LENGTH_LEGACY_6 20
#define OPTION_END 0
#define OPTION_PAD 1
#define TCP_HEADER 20
#define TCP_OPTIONS 40 // the most that a header can have

#define FLAG_SYN 2
#define FLAG_RST 4
#define FLAG_ACK 16

// An address at no particular alignment, as in a packet.
struct words {
	__u32 word[4];
} __attribute__((packed));

struct hello {
	__u8 kind, length;
	__u16 experiment;
} __attribute__((packed));

struct option {
	__u8 kind, length;
	__u16 experiment;
	__u16 port;
	struct words address;
} __attribute__((packed));

struct legacy {
	__u8 kind, length;
	__u16 port;
	struct words address;
} __attribute__((packed));

// Port and address are in network byte order. An IPv4 address is the first word.
struct client {
	__u16 family; // AF_INET, AF_INET6, or 0: none
	__u16 port;
	__u32 address[4];
};

#define MAPPED HTONL(0xffff) // the third word of an IPv4-mapped address

// denied reports whether a client with this address cannot exist, wherever the server
// is: unspecified, loopback, multicast, broadcast, link-local IPv6, an IPv4-mapped
// address in an IPv6 option, and the server's own address. local is the latter, IPv4 as
// mapped. The gate and the program that takes the client both ask this and nothing else,
// so that what the one passes the other takes.
static __always_inline int denied(const struct client *c, const __u32 local[4])
{
	__u32 first = HTONL(c->address[0]);

	if (c->family == AF_INET)
		return first >> 24 == 0 || first >> 24 == 127 || first >> 28 == 14 || first == 0xffffffff ||
		       (local[2] == MAPPED && !local[0] && !local[1] && local[3] == c->address[0]);
	if (first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6)
		return 1;
	if (!c->address[0] && !c->address[1]) {
		if (c->address[2] == MAPPED)
			return 1;
		if (!c->address[2] && (!c->address[3] || c->address[3] == HTONL(1)))
			return 1;
	}
	return c->address[0] == local[0] && c->address[1] == local[1] && c->address[2] == local[2] &&
	       c->address[3] == local[3];
}

// unshowable reports whether a socket of that family cannot name the client: only an
// AF_INET6 socket can name an IPv6 address.
static __always_inline int unshowable(const struct client *c, __u32 family)
{
	return c->family == AF_INET6 && family == AF_INET;
}

static __always_inline void set_client(struct client *c, __u16 family, __u16 port, const struct words *address)
{
	c->family = family;
	c->port = port;
	c->address[0] = address->word[0];
	c->address[1] = c->address[2] = c->address[3] = 0;
	if (family == AF_INET6) {
		c->address[1] = address->word[1];
		c->address[2] = address->word[2];
		c->address[3] = address->word[3];
	}
}

#endif

// SPDX-License-Identifier: Apache-2.0
//
// The server's maps, which the loader fills and reads, and the questions about them.
#ifndef UNPROXY_TOA_LISTS_H
#define UNPROXY_TOA_LISTS_H

#include "option.h"

// Key of a longest-prefix match. An IPv4 address is mapped.
struct prefix {
	__u32 bits;
	__u32 address[4];
};

enum { LISTED = 1, LISTED_LEGACY = 2 }; // bits of a gateway's entry

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct prefix);
	__type(value, __u8);
} toa_gateways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u8);
} toa_ports SEC(".maps");

// The client of each accepted connection, for as long as its socket exists.
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct client);
} toa_seen SEC(".maps");

// The order is that of counters in status.go.
enum counter { PROMISED, TAKEN, STRANGER, DROPPED_MISSING, DROPPED_DENIED, DROPPED_FAMILY, DROPPED_DATA, UNKNOWN, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} toa_counts SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&toa_counts, &which);

	if (n)
		(*n)++;
}

static __always_inline int is_listed_port(__u32 port)
{
	__u16 key = port;

	return bpf_map_lookup_elem(&toa_ports, &key) != 0;
}

// gateway_bits returns the entry of a gateway, 0 for others. The address is mapped if IPv4.
static __always_inline __u8 gateway_bits(const __u32 address[4])
{
	struct prefix key = {128, {address[0], address[1], address[2], address[3]}};
	__u8 *bits = bpf_map_lookup_elem(&toa_gateways, &key);

	return bits ? *bits : 0;
}

static __always_inline void map_v4(__u32 to[4], __u32 address)
{
	to[0] = to[1] = 0;
	to[2] = MAPPED;
	to[3] = address;
}

#endif

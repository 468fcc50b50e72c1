// SPDX-License-Identifier: Apache-2.0
//
// The gate's questions about a packet, without those about the socket, which
// BPF_PROG_TEST_RUN cannot answer. For tests.
#include "../bpf/gate.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct client);
} found SEC(".maps");

volatile const __u32 legacy = 0;
volatile const __u32 family = 0;

SEC("cgroup_skb/ingress")
int packet(struct __sk_buff *skb)
{
	struct ends e = {};
	struct client c = {}, *to;
	__u8 offset;
	__u32 zero = 0;

	if (!find_ends(skb, &e) || !e.tcp || bpf_skb_load_bytes(skb, e.tcp + 12, &offset, 1))
		return 0;
	find_client(skb, e.tcp + TCP_HEADER, e.tcp + (offset >> 4) * 4, legacy, &c);
	to = bpf_map_lookup_elem(&found, &zero);
	if (to)
		*to = c;
	return pass(skb, family);
}

char _license[] SEC("license") = "Apache-2.0";

// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// Goes through the listeners of a network namespace: those on the listed ports that the
// programs attached to a cgroup cover. With change = 1 it sets on them what the server's
// program sets when a socket begins to listen; with change = 2 it takes that back; else it
// only reports. It needs Linux 6.12, which lets an iterator set TCP_BPF_SOCK_OPS_CB_FLAGS.
// The kernel demands a GPL-compatible licence of iterators, so this file has two.
#include "kernel.h"

#define SOL_TCP 6
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

// The kernel's own structures: the loader finds the fields in the running kernel's BTF.
#define KERNEL __attribute__((preserve_access_index))
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; } KERNEL;
struct sock_common { volatile unsigned char skc_state; unsigned short skc_num; } KERNEL;
struct kernfs_node { __u64 id; } KERNEL;
struct cgroup { struct kernfs_node *kn; int level; struct cgroup *ancestors[]; } KERNEL;
struct sock_cgroup_data { struct cgroup *cgroup; } KERNEL;
struct sock { struct sock_cgroup_data sk_cgrp_data; } KERNEL;
struct bpf_iter__tcp { struct bpf_iter_meta *meta; struct sock_common *sk_common; } KERNEL;

// One listener, as the reader of the iterator gets it.
struct listener {
	__u32 port;
	__s32 error; // 0 or a negative errno
	__u32 marked; // before the change
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u8);
} toa_ports SEC(".maps");

volatile const __u32 change = 0;
volatile const __u64 cgroup_id = 0; // only listeners of this cgroup and those below it

#define DEEPEST 32
#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

// is_covered reports whether the programs that are attached to the cgroup run for a socket.
static __always_inline int is_covered(struct sock *sk)
{
	struct cgroup *own = 0, *at = 0;
	struct kernfs_node *node = 0;
	__u64 id = 0;
	int level = -1;

	if (READ(own, sk->sk_cgrp_data.cgroup) || READ(level, own->level))
		return 0;
	for (int i = 0; i < DEEPEST && i <= level; i++) {
		if (READ(at, own->ancestors[i]) || READ(node, at->kn) || READ(id, node->id))
			return 0;
		if (id == cgroup_id)
			return 1;
	}
	return 0;
}

SEC("iter/tcp")
int unproxy_mark(struct bpf_iter__tcp *i)
{
	struct sock_common *sk = i->sk_common;
	struct listener l = {};
	__u16 port;
	int flags = 0;
	void *tcp;

	if (!sk || sk->skc_state != TCP_LISTEN)
		return 0;
	port = sk->skc_num;
	if (!bpf_map_lookup_elem(&toa_ports, &port))
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || !is_covered(tcp))
		return 0;
	l.port = port;
	l.error = bpf_getsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	l.marked = !l.error && (flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	if (!l.error && change) {
		flags &= ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
		if (change == 1)
			flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
		l.error = bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	}
	bpf_seq_write(i->meta->seq, &l, sizeof(l));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";

// SPDX-License-Identifier: Apache-2.0
//
// The part of the kernel's BPF interface that the programs use: layouts and numbers of
// include/uapi/linux/bpf.h, which the kernel keeps stable. With a copy of its own the
// object files do not depend on the headers of the machine that builds them.
#ifndef UNPROXY_TOA_KERNEL_H
#define UNPROXY_TOA_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

// Declarations of maps, as loaders read them from BTF.
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

// CTX reads one field of a program's context. The verifier allows loads of exactly one
// field; the compiler would merge two that are adjacent.
#define CTX(field) (*(volatile typeof(field) *)&(field))

// FORGET bounds a variable by a mask and hides from the verifier whatever else it has
// learnt about it. Rounds of a loop then look the same to it, and it does not try every
// combination of them.
#define FORGET(variable, mask) asm volatile("%0 &= " #mask : "+r"(variable))

// The programs are built for little-endian machines: amd64 and arm64.
#define HTONL(x) __builtin_bswap32(x)

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define TCP_CLOSE 7   // enum in include/net/tcp_states.h
#define TCP_LISTEN 10
#define ENOENT 2

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_F_NO_PREALLOC 1
#define BPF_SK_STORAGE_GET_F_CREATE 1
#define BPF_LOAD_HDR_OPT_TCP_SYN 1

#define BPF_SOCK_OPS_TCP_CONNECT_CB 3
#define BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB 4
#define BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB 5
#define BPF_SOCK_OPS_TCP_LISTEN_CB 11
#define BPF_SOCK_OPS_HDR_OPT_LEN_CB 14
#define BPF_SOCK_OPS_WRITE_HDR_OPT_CB 15
#define BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG (1 << 6)

#define POINTER(type, name) union { type name; __u64 : 64; } __attribute__((aligned(8)))

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; // host byte order
	__u16 dst_port;
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

struct __sk_buff {
	__u32 len;
	__u32 other[35]; // up to data_meta
	POINTER(void *, flow_keys);
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	POINTER(struct bpf_sock *, sk);
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	POINTER(struct bpf_sock *, sk);
};

struct bpf_sockopt {
	POINTER(struct bpf_sock *, sk);
	POINTER(void *, optval);
	POINTER(void *, optval_end);
	__s32 level;
	__s32 optname;
	__s32 optlen;
	__s32 retval;
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4; // addresses in network byte order
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port; // network byte order
	__u32 local_port;  // host byte order
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 other[19]; // up to sk_txhash
	__u64 bytes_received;
	__u64 bytes_acked;
	POINTER(struct bpf_sock *, sk);
	POINTER(void *, skb_data);
	POINTER(void *, skb_data_end);
	__u32 skb_len;
	__u32 skb_tcp_flags;
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 length) = (void *)26;
static long (*bpf_setsockopt)(void *sk, int level, int name, void *value, int length) = (void *)49;
static long (*bpf_getsockopt)(void *sk, int level, int name, void *value, int length) = (void *)57;
static long (*bpf_sock_ops_cb_flags_set)(struct bpf_sock_ops *s, int flags) = (void *)59;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static long (*bpf_probe_read_kernel)(void *to, __u32 length, const void *from) = (void *)113;
static long (*bpf_seq_write)(void *seq, const void *data, __u32 length) = (void *)127;
static void *(*bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static long (*bpf_load_hdr_opt)(struct bpf_sock_ops *s, void *option, __u32 length, __u64 flags) = (void *)142;
static long (*bpf_store_hdr_opt)(struct bpf_sock_ops *s, const void *option, __u32 length, __u64 flags) = (void *)143;
static long (*bpf_reserve_hdr_opt)(struct bpf_sock_ops *s, __u32 length, __u64 flags) = (void *)144;

#endif

// SPDX-License-Identifier: Apache-2.0
//
// The programs of the backend's host. The listener promises a gateway to take the client,
// the gate drops whatever would complete that gateway's handshake without one, the client
// is stored with the accepted socket, and getpeername(2) and accept(2) name it.
#include "gate.h"

// remote_address and local_address read all fields before they choose: the compiler would
// merge loads of two branches into one with a computed address, which the verifier refuses.
static __always_inline void remote_address(struct bpf_sock_ops *s, __u32 to[4])
{
	__u32 v4 = CTX(s->remote_ip4);

	to[0] = CTX(s->remote_ip6[0]);
	to[1] = CTX(s->remote_ip6[1]);
	to[2] = CTX(s->remote_ip6[2]);
	to[3] = CTX(s->remote_ip6[3]);
	if (s->family == AF_INET)
		map_v4(to, v4);
}

static __always_inline void local_address(struct bpf_sock_ops *s, __u32 to[4])
{
	__u32 v4 = CTX(s->local_ip4);

	to[0] = CTX(s->local_ip6[0]);
	to[1] = CTX(s->local_ip6[1]);
	to[2] = CTX(s->local_ip6[2]);
	to[3] = CTX(s->local_ip6[3]);
	if (s->family == AF_INET)
		map_v4(to, v4);
}

static __always_inline __u8 sender_bits(struct bpf_sock_ops *s)
{
	__u32 from[4];

	remote_address(s, from);
	return gateway_bits(from);
}

// is_promised reports whether the SYN-ACK that is being written answers an offer. One
// that is sent again has no SYN at hand (ENOENT) and promises unasked; the gate covers
// the gateway that has not offered.
static __always_inline int is_promised(struct bpf_sock_ops *s)
{
	struct hello h = {KIND, LENGTH_HELLO, EXPERIMENT};
	long n;

	if ((s->skb_tcp_flags & (FLAG_SYN | FLAG_ACK)) != (FLAG_SYN | FLAG_ACK))
		return 0;
	if (!is_listed_port(s->local_port) || !sender_bits(s))
		return 0;
	n = bpf_load_hdr_opt(s, &h, sizeof(h), BPF_LOAD_HDR_OPT_TCP_SYN);
	return n == LENGTH_HELLO || n == -ENOENT;
}

// load_legacy is find_client for legacy options, in the header of the final ACK.
static __always_inline int load_legacy(struct bpf_sock_ops *s, struct client *c)
{
	__u8 *th = s->skb_data, *end = s->skb_data_end;
	__u64 at = TCP_HEADER, length;

	if (th + TCP_HEADER > end)
		return 0;
	length = (th[12] >> 4) * 4;
	for (int i = 0; i < TCP_OPTIONS; i++) {
		struct legacy *l;

		FORGET(at, 63);
		FORGET(length, 63);
		if (at + LENGTH_LEGACY_4 > length)
			return 0;
		l = (void *)(th + at);
		if ((__u8 *)l + LENGTH_LEGACY_4 > end || l->kind == OPTION_END)
			return 0;
		if (l->kind == OPTION_PAD) {
			at++;
			continue;
		}
		if (l->length < 2 || at + l->length > length)
			return 0;
		if (l->kind == KIND && l->length == LENGTH_LEGACY_4) {
			set_client(c, AF_INET, l->port, &l->address);
			return 1;
		}
		if (is_legacy(l->kind, l->length)) {
			if ((__u8 *)l + LENGTH_LEGACY_6 > end)
				return 0;
			set_client(c, AF_INET6, l->port, &l->address);
			return 1;
		}
		at += l->length;
	}
	return 0;
}

static __always_inline int load_client(struct bpf_sock_ops *s, int legacy, struct client *c)
{
	struct option o = {KIND, LENGTH_HELLO, EXPERIMENT};
	long n = bpf_load_hdr_opt(s, &o, sizeof(o), 0);

	if (n == LENGTH_4 || n == LENGTH_6) {
		set_client(c, n == LENGTH_4 ? AF_INET : AF_INET6, o.port, &o.address);
		return 1;
	}
	return legacy && load_legacy(s, c);
}

// A handshake is complete. With a gateway the gate has passed it, so there is a client to
// take. Should there be none, because someone has taken the gate away, the socket names
// 0.0.0.0:0, but never the gateway.
static __always_inline void take_client(struct bpf_sock_ops *s)
{
	struct bpf_sock *sk = s->sk;
	struct client c = {}, none = {};
	__u32 local[4];
	__u8 bits;
	int found;

	if (!sk || !is_listed_port(s->local_port))
		return;
	bits = sender_bits(s);
	found = load_client(s, bits & LISTED_LEGACY, &c);
	if (!bits) {
		if (found)
			count(STRANGER);
		return;
	}
	local_address(s, local);
	if (!found || denied(&c, local) || unshowable(&c, s->family)) {
		count(UNKNOWN);
		c = none;
	} else {
		count(TAKEN);
	}
	bpf_sk_storage_get(&toa_seen, sk, &c, BPF_SK_STORAGE_GET_F_CREATE);
}

SEC("sockops")
int unproxy_promise(struct bpf_sock_ops *s)
{
	struct hello h = {KIND, LENGTH_HELLO, EXPERIMENT};
	__u32 flags = s->bpf_sock_ops_cb_flags;

	switch (s->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		if (is_listed_port(s->local_port))
			bpf_sock_ops_cb_flags_set(s, flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		if (is_promised(s)) {
			bpf_reserve_hdr_opt(s, LENGTH_HELLO, 0);
			count(PROMISED);
		}
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		if (is_promised(s))
			bpf_store_hdr_opt(s, &h, sizeof(h), 0);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) // the listener's, which the socket has inherited
			bpf_sock_ops_cb_flags_set(s, flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		take_client(s);
		break;
	}
	return 1;
}

SEC("cgroup_skb/ingress")
int unproxy_gate(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->state != TCP_LISTEN || sk->protocol != IPPROTO_TCP || !is_listed_port(sk->src_port))
		return 1;
	return pass(skb, sk->family);
}

SEC("cgroup/getpeername4")
int unproxy_peer4(struct bpf_sock_addr *a)
{
	struct bpf_sock *sk = a->sk;
	struct client *c;

	if (!sk)
		return 1;
	c = bpf_sk_storage_get(&toa_seen, sk, 0, 0);
	if (!c)
		return 1;
	a->user_ip4 = c->family == AF_INET ? c->address[0] : 0;
	a->user_port = c->port;
	return 1;
}

SEC("cgroup/getpeername6")
int unproxy_peer6(struct bpf_sock_addr *a)
{
	struct bpf_sock *sk = a->sk;
	struct client *c;
	__u32 ip[4];

	if (!sk)
		return 1;
	c = bpf_sk_storage_get(&toa_seen, sk, 0, 0);
	if (!c)
		return 1;
	map_v4(ip, c->address[0]);
	if (c->family == AF_INET6) {
		ip[0] = c->address[0];
		ip[1] = c->address[1];
		ip[2] = c->address[2];
		ip[3] = c->address[3];
	}
	CTX(a->user_ip6[0]) = ip[0];
	CTX(a->user_ip6[1]) = ip[1];
	CTX(a->user_ip6[2]) = ip[2];
	CTX(a->user_ip6[3]) = ip[3];
	a->user_port = c->port;
	return 1;
}

char _license[] SEC("license") = "Apache-2.0";

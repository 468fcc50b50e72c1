// SPDX-License-Identifier: Apache-2.0
//
// The gateway's programs. A process sets the client of a socket with setsockopt(2)
// before connect(2). The SYN then carries the offer. If the server answers with the
// promise, every segment carries the client until the server has acknowledged one.
#include "option.h"

#define LEVEL 0x554e50 // of no protocol: without these programs setsockopt(2) fails with ENOPROTOOPT
#define OPTION_CLIENT 1

// What setsockopt(2) takes. Port and address are in network byte order.
struct request {
	__u16 family, port;
	struct words address;
	__u32 mode;
};

enum mode { NEGOTIATE, UNASKED, LEGACY }; // UNASKED: neither offer nor promise, for tests

// What is known of a socket. getsockopt(2) answers with a part of it, see unproxy_answer.
struct connection {
	struct client client;
	__u8 mode, promised, acknowledged, unused;
	__u32 written; // segments that carried the client
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} toa_clients SEC(".maps");

static __always_inline void want_options(struct bpf_sock_ops *s)
{
	bpf_sock_ops_cb_flags_set(s, s->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

static __always_inline void stop_options(struct bpf_sock_ops *s)
{
	bpf_sock_ops_cb_flags_set(s, s->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

// The SYN-ACK has arrived, and the ACK that answers it is not yet written.
static __always_inline void read_promise(struct bpf_sock_ops *s, struct connection *c)
{
	struct hello h = {KIND, LENGTH_HELLO, EXPERIMENT};

	c->promised = bpf_load_hdr_opt(s, &h, sizeof(h), 0) == LENGTH_HELLO;
	if (c->mode == NEGOTIATE && !c->promised)
		stop_options(s);
}

static __always_inline void reserve(struct bpf_sock_ops *s, struct connection *c)
{
	int is_v4 = c->client.family == AF_INET;

	if (s->skb_tcp_flags & FLAG_SYN) {
		if (c->mode == NEGOTIATE)
			bpf_reserve_hdr_opt(s, LENGTH_HELLO, 0);
		return;
	}
	// More than the SYN is acknowledged, or something was received after it: the server
	// has the connection, so it has the client.
	if (s->bytes_acked > 1 || s->bytes_received > 0) {
		c->acknowledged = 1;
		stop_options(s);
		return;
	}
	if (c->mode == LEGACY)
		bpf_reserve_hdr_opt(s, is_v4 ? LENGTH_LEGACY_4 : LENGTH_LEGACY_6, 0);
	else
		bpf_reserve_hdr_opt(s, is_v4 ? LENGTH_4 : LENGTH_6, 0);
}

static __always_inline void write_legacy(struct bpf_sock_ops *s, const struct client *c)
{
	struct legacy o = {KIND, LENGTH_LEGACY_4, c->port,
			   {{c->address[0], c->address[1], c->address[2], c->address[3]}}};

	if (c->family == AF_INET) {
		bpf_store_hdr_opt(s, &o, LENGTH_LEGACY_4, 0);
		return;
	}
	o.kind = KIND_OTHER;
	o.length = LENGTH_LEGACY_6;
	bpf_store_hdr_opt(s, &o, LENGTH_LEGACY_6, 0);
}

static __always_inline void write(struct bpf_sock_ops *s, struct connection *c)
{
	const struct client *w = &c->client;
	struct hello h = {KIND, LENGTH_HELLO, EXPERIMENT};
	struct option o = {KIND, LENGTH_4, EXPERIMENT, w->port,
			   {{w->address[0], w->address[1], w->address[2], w->address[3]}}};

	if (s->skb_tcp_flags & FLAG_SYN) {
		if (c->mode == NEGOTIATE)
			bpf_store_hdr_opt(s, &h, sizeof(h), 0);
		return;
	}
	__sync_fetch_and_add(&c->written, 1);
	if (c->mode == LEGACY) {
		write_legacy(s, w);
	} else if (w->family == AF_INET) {
		bpf_store_hdr_opt(s, &o, LENGTH_4, 0);
	} else {
		o.length = LENGTH_6;
		bpf_store_hdr_opt(s, &o, LENGTH_6, 0);
	}
}

SEC("sockops")
int unproxy_option(struct bpf_sock_ops *s)
{
	struct bpf_sock *sk = s->sk;
	struct connection *c;
	__u32 op = s->op;

	if (!sk || (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
		    op != BPF_SOCK_OPS_HDR_OPT_LEN_CB && op != BPF_SOCK_OPS_WRITE_HDR_OPT_CB))
		return 1;
	c = bpf_sk_storage_get(&toa_clients, sk, 0, 0);
	if (!c)
		return 1;
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		want_options(s);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		read_promise(s, c);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		reserve(s, c);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write(s, c);
		break;
	}
	return 1;
}

// setsockopt(2) at our level: returning 0 makes it fail with EPERM, as for a socket that
// is connected already.
SEC("cgroup/setsockopt")
int unproxy_client(struct bpf_sockopt *o)
{
	struct request *r = o->optval;
	struct bpf_sock *sk = o->sk;
	struct connection *c;

	if (o->level != LEVEL)
		return 1;
	if (o->optname != OPTION_CLIENT || !sk || (void *)(r + 1) > o->optval_end)
		return 0;
	if (sk->protocol != IPPROTO_TCP || sk->state != TCP_CLOSE)
		return 0;
	if ((r->family != AF_INET && r->family != AF_INET6) || r->mode > LEGACY)
		return 0;
	c = bpf_sk_storage_get(&toa_clients, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return 0;
	set_client(&c->client, r->family, r->port, &r->address);
	c->mode = r->mode;
	o->optlen = -1; // the kernel itself has nothing to do
	return 1;
}

// getsockopt(2) at our level answers with 8 bytes: promised, acknowledged, two of zero,
// and the number of segments that carried the client.
SEC("cgroup/getsockopt")
int unproxy_answer(struct bpf_sockopt *o)
{
	__u32 *answer = o->optval;
	struct bpf_sock *sk = o->sk;
	struct connection *c;

	if (o->level != LEVEL)
		return 1;
	if (o->optname != OPTION_CLIENT || !sk || (void *)(answer + 2) > o->optval_end)
		return 0;
	c = bpf_sk_storage_get(&toa_clients, sk, 0, 0);
	if (!c)
		return 0;
	answer[0] = c->promised | c->acknowledged << 8;
	answer[1] = c->written;
	CTX(o->optlen) = 8;
	CTX(o->retval) = 0; // it was -ENOPROTOOPT
	return 1;
}

char _license[] SEC("license") = "Apache-2.0";

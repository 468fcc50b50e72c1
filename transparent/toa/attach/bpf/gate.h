// SPDX-License-Identifier: Apache-2.0
//
// What the gate asks of a packet. It reads by helper and at no variable offset of the
// stack, which verifiers before 5.12 refuse.
#ifndef UNPROXY_TOA_GATE_H
#define UNPROXY_TOA_GATE_H

#include "lists.h"

static __always_inline int is_legacy(__u8 kind, __u8 length)
{
	return (kind == KIND && length == LENGTH_LEGACY_4) ||
	       ((kind == KIND || kind == KIND_OTHER) && length == LENGTH_LEGACY_6);
}

// counts reports whether an option is the one that is searched for. The search for our
// own ends at one of its kind that is too short for an identifier, as in bpf_load_hdr_opt.
static __always_inline int counts(const struct option *o, int legacy)
{
	if (legacy)
		return is_legacy(o->kind, o->length);
	return o->kind == KIND && (o->length < LENGTH_HELLO || o->experiment == EXPERIMENT);
}

// find returns the offset of the first option that counts, 0 if there is none. at and end
// delimit the options. A malformed option ends them. Options of less than 8 bytes at their
// end are no client's and are not looked at.
static __always_inline __u64 find(struct __sk_buff *skb, __u64 at, __u64 end, int legacy)
{
	for (int i = 0; i < TCP_OPTIONS; i++) {
		struct option o = {};

		FORGET(at, 127);
		FORGET(end, 127);
		if (at + LENGTH_LEGACY_4 > end || bpf_skb_load_bytes(skb, at, &o, LENGTH_LEGACY_4))
			return 0;
		if (o.kind == OPTION_END)
			return 0;
		if (o.kind == OPTION_PAD) {
			at++;
			continue;
		}
		if (o.length < 2 || at + o.length > end)
			return 0;
		if (counts(&o, legacy))
			return at;
		at += o.length;
	}
	return 0;
}

// find_client reads the client from the options between at and end: from the first option
// with our identifier, or else, if legacy is set, from the first legacy one.
static __always_inline int find_client(struct __sk_buff *skb, __u32 at, __u32 end, int legacy, struct client *c)
{
	struct option o = {};
	struct legacy l = {};
	__u64 found = find(skb, at, end, 0);

	if (found && bpf_skb_load_bytes(skb, found, &o, LENGTH_LEGACY_4))
		return 0;
	if (o.length == LENGTH_4 && !bpf_skb_load_bytes(skb, found, &o, LENGTH_4)) {
		set_client(c, AF_INET, o.port, &o.address);
		return 1;
	}
	if (o.length == LENGTH_6 && !bpf_skb_load_bytes(skb, found, &o, LENGTH_6)) {
		set_client(c, AF_INET6, o.port, &o.address);
		return 1;
	}
	if (!legacy)
		return 0;
	found = find(skb, at, end, 1);
	if (!found || bpf_skb_load_bytes(skb, found, &l, LENGTH_LEGACY_4))
		return 0;
	if (l.length == LENGTH_LEGACY_4) {
		set_client(c, AF_INET, l.port, &l.address);
		return 1;
	}
	if (bpf_skb_load_bytes(skb, found, &l, LENGTH_LEGACY_6))
		return 0;
	set_client(c, AF_INET6, l.port, &l.address);
	return 1;
}

// Source and destination of a packet, IPv4 as mapped, and the offset of its TCP header;
// 0 if there is none at a place that is known.
struct ends {
	__u32 source[4], destination[4];
	__u32 tcp;
};

static __always_inline int find_ends(struct __sk_buff *skb, struct ends *e)
{
	__u8 version, next;

	if (bpf_skb_load_bytes(skb, 0, &version, 1))
		return 0;
	if (version >> 4 == 4) {
		map_v4(e->source, 0);
		map_v4(e->destination, 0);
		if (bpf_skb_load_bytes(skb, 12, &e->source[3], 4) || bpf_skb_load_bytes(skb, 16, &e->destination[3], 4))
			return 0;
		e->tcp = (version & 15) * 4;
		return 1;
	}
	if (bpf_skb_load_bytes(skb, 6, &next, 1) || bpf_skb_load_bytes(skb, 8, e->source, 16) ||
	    bpf_skb_load_bytes(skb, 24, e->destination, 16))
		return 0;
	e->tcp = next == IPPROTO_TCP ? 40 : 0; // gateways send no extension headers
	return 1;
}

// pass reports whether a listening socket of that family may have a packet for one of the
// listed ports: anything from strangers; from a gateway a SYN without data, an RST, and
// what carries a client that the server may show.
static __always_inline int pass(struct __sk_buff *skb, __u32 family)
{
	struct ends e = {};
	struct client c = {};
	__u8 th[TCP_HEADER], bits;
	__u32 length;

	if (!find_ends(skb, &e))
		return 0;
	bits = gateway_bits(e.source);
	if (!bits)
		return 1;
	if (!e.tcp || bpf_skb_load_bytes(skb, e.tcp, th, sizeof(th))) {
		count(DROPPED_MISSING);
		return 0;
	}
	length = (th[12] >> 4) * 4;
	if (th[13] & FLAG_RST)
		return 1;
	if (th[13] & FLAG_SYN) { // data in it would be accepted before the client is known (TCP Fast Open)
		if (skb->len <= e.tcp + length)
			return 1;
		count(DROPPED_DATA);
		return 0;
	}
	if (!find_client(skb, e.tcp + TCP_HEADER, e.tcp + length, bits & LISTED_LEGACY, &c)) {
		count(DROPPED_MISSING);
		return 0;
	}
	if (denied(&c, e.destination)) {
		count(DROPPED_DENIED);
		return 0;
	}
	if (unshowable(&c, family)) {
		count(DROPPED_FAMILY);
		return 0;
	}
	return 1;
}

#endif

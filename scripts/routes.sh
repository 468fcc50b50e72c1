#!/bin/sh
# The same as "unproxy routes apply", as a script to read before running it: it
# routes the replies of transparent backends to the gateway.
#
#   routes.sh apply  BACKEND...    add rules and routes; a second run changes nothing
#   routes.sh check  BACKEND...    print what is missing
#   routes.sh remove BACKEND...    remove them
#
# BACKEND is ADDRESS:PORT or ADDRESS:LOW-HIGH, with brackets for IPv6, as in the
# gateway's --forward: 127.0.0.1:22 '[::1]:22' 10.9.0.2:21000-21010
#
#   PROTO=udp          for UDP (default tcp)
#   TABLE PREF MARK    numbers to use instead of 7700; MARK+2 is used as well
#
# Exit code: 0 success, 1 failure, 2 usage, 3 check found something missing.
set -eu

TABLE=${TABLE:-7700} PREF=${PREF:-7700} MARK=${MARK:-7700} PROTO=${PROTO:-tcp}
LOCAL=$((MARK + 2)) FILTER=unproxy_${MARK}_sh_${PREF}_$PROTO
missing=0 links4='' links6='' locals4='' locals6=''

usage() {
	sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

run() {
	echo "[#] $*"
	"$@"
}

# want THERE COMMAND...: runs COMMAND unless THERE says that its work is done.
want() {
	there=$1
	shift
	case $action$there in
	checkyes) echo "ok       $*" ;;
	checkno) echo "missing  $*" && missing=1 ;;
	applyno) run "$@" ;;
	esac
}

# split BACKEND: sets address and ports, and ip and family for the address.
split() {
	ports=${1##*:} address=${1%:*} ip='ip -4' family=4
	case $address in
	\[*\]) address=${address#?} address=${address%?} ip='ip -6' family=6 ;;
	*:*) usage ;;
	esac
	[ -n "$address" ] && [ "$ports" != "$1" ] || usage
}

# find: sets dev, the interface that receives the backend's packets, and recipe.
# A rule suffices where all traffic of the backend is the gateway's: on loopback, and
# on a link from which this host forwards nothing. Elsewhere a rule would divert the
# replies to other clients too, so the packet filter must mark those for the gateway.
find() {
	route=$($ip route get "$address")
	case $route in
	local*)
		dev=lo recipe=locals
		on=$($ip -o address show to "$address" | awk '{print $2; exit}')
		case $address,$on in 127.* | ::1,* | *,lo) recipe=rule ;; esac
		if ip -d link show "${on:-lo}" | grep -qw dummy; then recipe=rule; fi
		;;
	*)
		dev=${route#* dev } dev=${dev%% *} recipe=links
		[ "$(cat "/proc/sys/net/ipv$family/conf/$dev/forwarding")" != 0 ] || recipe=rule
		;;
	esac
}

# rule WORDS: a rule, in the form in which ip prints it.
rule() {
	there=no
	if $ip rule show pref "$PREF" | sed 's/^[0-9]*:\t//; s/ *$//; s/ \[detached\]//' | grep -qxF "$*"; then there=yes; fi
	if [ "$action" != remove ]; then
		want $there $ip rule add "$@" pref "$PREF"
	elif [ $there = yes ]; then
		run $ip rule del "$@" pref "$PREF"
	fi
}

# route: in our table every address is local. It is removed with the last rule.
route() {
	there=no
	if $ip route show table "$TABLE" 2>/dev/null | grep -q '^local default '; then there=yes; fi
	if [ "$action" != remove ]; then
		want $there $ip route replace local default dev lo table "$TABLE"
	elif [ $there = yes ] && ! $ip rule | grep -qw "lookup $TABLE"; then
		run $ip route del local default dev lo table "$TABLE"
	fi
}

# backend: a separate rule, or an element of a set and a rule for marked packets.
backend() {
	case $recipe in
	rule) rule from "$address" iif "$dev" ipproto "$PROTO" sport "$ports" lookup "$TABLE" ;;
	*)
		eval "$recipe$family=\"\$$recipe$family $address . $PROTO . $ports,\""
		mark=$MARK
		[ $recipe = links ] || mark=$LOCAL # otherwise, with src_valid_mark, source validation would use this rule
		rule from all fwmark "$(printf '0x%x' "$mark")" iif "$dev" lookup "$TABLE"
		;;
	esac
}

# sets and chains make up the packet filter's table. It marks replies from backends on
# a link to a transparent socket, and replies on connections of a transparent socket to
# an address of this host.
sets() {
	for name in links4 links6 locals4 locals6; do
		eval "elements=\$$name"
		type=ipv4_addr
		case $name in *6) type=ipv6_addr ;; esac
		# A set can be empty, but a list of elements cannot.
		echo "set $name { type $type . inet_proto . inet_service; flags interval; ${elements:+elements = { $elements \}; }}"
	done
}

chains() {
	cat <<-END
		chain prerouting {
			type filter hook prerouting priority mangle; policy accept;
			ip saddr . meta l4proto . th sport @links4 socket transparent 1 socket wildcard 0 meta mark set $MARK
			ip6 saddr . meta l4proto . th sport @links6 socket transparent 1 socket wildcard 0 meta mark set $MARK
			iif lo ip daddr . meta l4proto . th dport @locals4 fib saddr type != local ct mark set $LOCAL
			iif lo ip6 daddr . meta l4proto . th dport @locals6 fib saddr type != local ct mark set $LOCAL
		}
		chain output {
			type route hook output priority mangle; policy accept;
			ct direction reply ct mark $LOCAL meta mark set $LOCAL
		}
	END
}

load_table() {
	table=$(printf 'table inet %s {\n%s\n%s\n}' "$1" "$(sets)" "$(chains)")
	echo "$table"
	echo "$table" | nft -f -
}

filter() {
	there=no
	if nft list table inet "$FILTER" >/dev/null 2>&1; then there=yes; fi
	if [ "$action" = remove ]; then
		[ $there = no ] || run nft delete table inet "$FILTER"
		return
	fi
	want $there load_table "$FILTER"
}

# each DO: calls DO for each backend.
each() {
	for b in $backends; do
		split "$b"
		find
		"$1"
	done
}

[ $# -ge 2 ] || usage
action=$1
shift
case $action in apply | check | remove) ;; *) usage ;; esac
backends=$*
[ "$action" = remove ] || each route
each backend
[ "$action" != remove ] || each route
[ -z "$links4$links6$locals4$locals6" ] || filter
[ $missing = 0 ] || exit 3

#!/bin/sh
# What "unproxy routes apply" does, as a script to read before you run it: it sets
# up the return path for the replies of transparent backends.
#
#   routes.sh apply  BACKEND...    add the rules and routes that are missing
#   routes.sh check  BACKEND...    print what is missing
#   routes.sh remove BACKEND...    delete them
#
# BACKEND is ADDRESS:PORT or ADDRESS:LOW-HIGH, with brackets for IPv6, exactly as
# the gateway dials it: 127.0.0.1:22 '[::1]:22' 10.9.0.2:21000-21010
#
#   PROTO=udp          for UDP (default tcp)
#   TABLE PREF MARK    other numbers than 7700; MARK+2 is used as well
#
# Exit code: 0 success, 1 runtime failure, 2 usage error, 3 check found something missing.
set -eu

export LC_ALL=C
TABLE=${TABLE:-7700} PREF=${PREF:-7700} MARK=${MARK:-7700} PROTO=${PROTO:-tcp}
LOCAL=$((MARK + 2)) FILTER=unproxy_${MARK}_sh_${PREF}_$PROTO
LABEL=100 # the origin of our rules, so that no other rule is deleted
missing=0 links4='' links6='' locals4='' locals6='' fragments=''

usage() {
	sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

run() {
	echo "[#] $*"
	"$@"
}

# want THERE COMMAND...: runs COMMAND unless its work is done.
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

# find: sets dev, the interface that the backend's packets come from, and recipe.
# A rule is right if only the gateway talks to the backend: on loopback, and on a
# link from which this host forwards nothing. Elsewhere a rule would divert the
# replies to others, so the packet filter must tell them apart.
find() {
	route=$($ip route get "$address") router=''
	case $route in
	local*)
		dev=lo recipe=locals
		on=$($ip -o address show to "$address" | awk '{print $2; exit}')
		case $address,$on in 127.* | ::1,* | *,lo) recipe=rule ;; esac
		if ip -d link show "${on:-lo}" | grep -qw dummy; then recipe=rule; fi
		;;
	*)
		dev=${route#* dev } dev=${dev%% *} recipe=links
		case $route in *" via "*) router=${route#* via } router=${router%% *} ;; esac
		case $dev in
		*[!A-Za-z0-9_.@+-]* | [!A-Za-z0-9_]*)
			echo "the interface of $address has a name with other characters than letters, digits and _ . - @ +" >&2
			exit 1
			;;
		esac
		[ "$(cat "/proc/sys/net/ipv$family/conf/$dev/forwarding")" != 0 ] || recipe=rule
		;;
	esac
}

# label WORDS: the origin of the rule that ip prints as WORDS, of any program, or
# "none" if the rule has none; nothing if there is no such rule.
label() {
	$ip rule show pref "$PREF" | awk -v want="$*" '{
		sub(/^[0-9]*:\t/, ""); sub(/ *$/, ""); sub(/ \[detached\]/, "")
		origin = "none"
		if (match($0, / proto [^ ]+$/)) { origin = substr($0, RSTART + 1); $0 = substr($0, 1, RSTART - 1) }
		if ($0 == want) { print origin; exit }
	}'
}

# rule WORDS: a rule, as ip prints it.
rule() {
	there=no
	origin=$(label "$@")
	[ -z "$origin" ] || there=yes
	if [ "$action" != remove ]; then
		want $there $ip rule add "$@" pref "$PREF" protocol "$LABEL"
	elif [ $there = yes ]; then
		# shellcheck disable=SC2086 # two words, or nothing
		run $ip rule del "$@" pref "$PREF" ${origin#none}
	fi
}

# errors: rules for ICMP errors to clients, without which the gateway does not learn
# that a backend is down or a packet too large. Of this host's own messages only
# "destination unreachable" is matched, which ip writes as destination ports: 256
# times the type, plus the code. When removing, rules that others need stay.
errors() {
	[ "$recipe" = rule ] || return 0
	icmp=icmp types=768-783
	[ $family = 4 ] || icmp=ipv6-icmp types=256-271
	others() { [ "$action" = remove ] && $ip rule | grep -E "$1 ipproto (tcp|udp) " | grep -qw "lookup $TABLE"; }
	if ! others "from $address iif $dev"; then
		case $dev in
		lo) rule from "$address" iif lo ipproto $icmp dport $types lookup "$TABLE" ;;
		*) rule from "$address" iif "$dev" ipproto $icmp lookup "$TABLE" ;;
		esac
	fi
	case $router in
	'' | inet*) ;;
	*) others "iif $dev" || rule from "$router" iif "$dev" ipproto $icmp lookup "$TABLE" ;;
	esac
}

# route: in our table every address is local. It is deleted with the last rule.
route() {
	there=no
	if $ip route show table "$TABLE" 2>/dev/null | grep -q '^local default '; then there=yes; fi
	if [ "$action" != remove ]; then
		want $there $ip route replace local default dev lo table "$TABLE"
	elif [ $there = yes ] && ! $ip rule | grep -qw "lookup $TABLE"; then
		run $ip route del local default dev lo table "$TABLE"
	fi
}

# backend: its own rule, or an element of a set and a rule for marked packets.
backend() {
	case $recipe in
	rule)
		rule from "$address" iif "$dev" ipproto "$PROTO" sport "$ports" lookup "$TABLE"
		# The ports of fragments cannot be compared: the packet filter reassembles them.
		case $dev,$PROTO in lo,*) ;; *,udp) fragments=yes ;; esac
		;;
	*)
		eval "$recipe$family=\"\$$recipe$family $address . $PROTO . $ports,\""
		mark=$MARK
		[ $recipe = links ] || mark=$LOCAL # else the reverse-path check would match this rule under src_valid_mark
		rule from all fwmark "$(printf '0x%x' "$mark")" iif "$dev" lookup "$TABLE"
		;;
	esac
}

# sets and chains make up the packet filter's table. It marks replies of backends
# on a link that belong to a transparent socket, and errors about its packets; and
# replies on connections that a transparent socket made to an address of this host.
sets() {
	for name in links4 links6 locals4 locals6; do
		eval "elements=\$$name"
		type=ipv4_addr
		case $name in *6) type=ipv6_addr ;; esac
		# A set can be empty, but a list of elements cannot.
		echo "set $name { type $type . inet_proto . inet_service; flags interval; ${elements:+elements = { $elements \}; }}"
	done
}

errors_of() {
	[ -z "$1" ] || echo "$2 type { $3 } socket transparent 1 socket wildcard 0 meta mark set $MARK"
}

chains() {
	cat <<-END
		# Nothing jumps here. A rule with tproxy has the kernel reassemble fragments.
		chain reassemble {
			meta l4proto udp tproxy to :1
		}
		chain prerouting {
			type filter hook prerouting priority mangle; policy accept;
			ip saddr . meta l4proto . th sport @links4 socket transparent 1 socket wildcard 0 meta mark set $MARK
			ip6 saddr . meta l4proto . th sport @links6 socket transparent 1 socket wildcard 0 meta mark set $MARK
			$(errors_of "$links4" icmp 'destination-unreachable, time-exceeded, parameter-problem')
			$(errors_of "$links6" icmpv6 'destination-unreachable, packet-too-big, time-exceeded, parameter-problem')
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
	if [ -z "$links4$links6$locals4$locals6" ] && ! command -v nft >/dev/null; then
		echo "nft is not installed: UDP replies that arrive in fragments are lost" >&2
		return
	fi
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
each errors
[ "$action" != remove ] || each route
[ -z "$links4$links6$locals4$locals6$fragments" ] || filter
[ $missing = 0 ] || exit 3

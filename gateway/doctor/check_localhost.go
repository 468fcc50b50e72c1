package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"unproxy/gateway/forward"
	"unproxy/transparent"
)

// grant is what well-known servers on a port grant to localhost, and the setting
// to change.
type grant struct {
	tcp, udp bool
	advice   string
}

const (
	smtpAdvice = "Postfix: take 127.0.0.0/8 and [::1]/128 out of mynetworks, or it relays mail for everyone; " +
		"Exim: the same in relay_from_hosts (dc_relay_nets); Sendmail: the same in the access map"
	mailboxAdvice = "Dovecot: ssl = required, because it takes passwords in the clear from localhost"
	webAdvice     = "web servers: look for allow 127.0.0.1 (nginx), Require local (Apache), " +
		"and what applications allow to localhost"
)

// grants are those of well-known servers, by port.
var grants = map[uint16]grant{
	22: {true, false, "sshd: look for Match Address and from= with 127.0.0.1; " +
		"fail2ban never bans localhost"},
	25: {true, false, smtpAdvice},
	53: {true, true, "BIND: allow-recursion { none; }, Unbound: access-control: 127.0.0.0/8 refuse; " +
		"or it is an open resolver"},
	80:   {true, false, webAdvice},
	110:  {true, false, mailboxAdvice},
	111:  {true, true, "rpcbind: localhost may register and remove services: do not forward to it"},
	123:  {false, true, "ntpd: add nomodify notrap nopeer noquery to restrict 127.0.0.1 and restrict ::1"},
	143:  {true, false, mailboxAdvice},
	161:  {false, true, "snmpd: remove rocommunity, rwcommunity and com2sec lines for localhost and 127.0.0.1"},
	443:  {true, false, webAdvice},
	465:  {true, false, smtpAdvice},
	514:  {true, true, "rsyslog: localhost is in most lists of AllowedSender: everyone can write to the log"},
	587:  {true, false, smtpAdvice},
	631:  {true, false, "CUPS: take localhost out of the Allow lines in cupsd.conf"},
	3128: {true, false, "squid: http_access deny localhost, or it is an open proxy"},
	3306: {true, false, "MySQL, MariaDB: look for accounts at localhost, 127.0.0.1 and ::1 without a password"},
	5432: {true, false, "PostgreSQL: in pg_hba.conf replace trust and ident " +
		"of 127.0.0.1/32 and ::1/128 by scram-sha-256"},
	5672: {true, false, "RabbitMQ: the user guest may log in from localhost: delete it"},
	6379: {true, false, "Redis, Valkey: set a password (requirepass, ACLs): " +
		"protected-mode protects from other addresses only"},
	8080:  {true, false, webAdvice},
	11211: {true, true, "memcached: it has no passwords without SASL: do not forward to it"},
	27017: {true, false, "MongoDB: create a user and enable authorization: localhost may create the first one"},
}

// advice returns what to change in the server on a port, or "".
func advice(port uint16, udp bool) string {
	s := grants[port]
	if udp && s.udp || !udp && s.tcp {
		return s.advice
	}
	return ""
}

// mostExposed is the number of servers that a finding names.
const mostExposed = 5

// checkLocalhost reports servers on loopback that see clients as localhost. All are
// one finding.
func (r *run) checkLocalhost(context.Context) []Finding {
	var names []string
	known := map[uint16]string{} // advice by port
	for _, f := range r.Config.Forwards {
		if f.Transparent && f.Source.FamilyMismatch != transparent.Plain {
			continue
		}
		first := true
		for i := range f.Listeners {
			for _, at := range r.loopbacks(&f.Listeners[i]) {
				name := newTarget(f, at.String(), at).name
				if first && !slices.Contains(names, name) {
					names = append(names, name)
				}
				first = false
				if text := advice(at.Port(), f.Datagrams); text != "" {
					known[at.Port()] = text
				}
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	text := strings.Join(names[:min(len(names), mostExposed)], ", ")
	if n := len(names) - mostExposed; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	hint := []string{"# --transparent, so that they see the client; or, in the server itself:"}
	for _, port := range slices.Sorted(maps.Keys(known)) {
		hint = append(hint, fmt.Sprintf("# port %d: %s", port, known[port]))
	}
	if len(known) == 0 {
		hint = append(hint, "# grant nothing to 127.0.0.1 and ::1; see SECURITY.md, Plain mode")
	}
	return []Finding{finding(Localhost, "plain mode", Warn,
		"clients are localhost to %s, and get what the server grants to localhost", text).with(hint...)}
}

// loopbacks returns the backends of a listener that are loopback addresses.
func (r *run) loopbacks(l *forward.Listener) []netip.AddrPort {
	var all []netip.AddrPort
	for _, b := range l.Backends {
		if at := b.Endpoint.Addr; at.Addr().Unmap().IsLoopback() {
			all = append(all, at)
		}
		for _, a := range r.names[b.Host].addresses {
			if a.IsLoopback() {
				all = append(all, netip.AddrPortFrom(a, b.Port))
			}
		}
	}
	return all
}

package doctor

import "slices"

// received tells from the sockets of this host whether somebody receives what is
// sent to a target of UDP. Elsewhere nobody can tell: a server need not answer.
func (e *examination) received(t *target) seen {
	switch {
	case !e.isHere(t):
		return seen{answer: silent}
	case slices.ContainsFunc(e.open(true), func(s socket) bool { return s.takes(t.at) }):
		return seen{answer: answered}
	}
	return seen{answer: refused}
}

// datagrams is the finding about a target of UDP.
func (e *examination) datagrams(t *target) Finding {
	switch t.plain.answer {
	case silent:
		return finding(Backend, t.name, Skip, "not tested: a server of UDP on another host need not answer")
	case refused:
		return e.backend(t)
	}
	if t.spoof && !slices.ContainsFunc(e.open(true), func(s socket) bool { return s.at == t.at }) {
		return finding(BackendWildcard, t.name, Warn,
			"the server's socket is bound to all addresses: unless it takes care itself, its replies to clients leave by another address, and never reach the gateway").
			with("# have it listen on " + t.at.Addr().String() + " alone")
	}
	return finding(Backend, t.name, OK, "somebody receives there")
}

package config

import "fmt"

// limits sets how many connections there may be, and how many of them may wait
// for their header: half, so that those cannot block all others.
func (l *loader) limits() {
	l.connections()
	most, given := l.config.MaxConnections, l.given(maxWaitingFlag)
	if !given {
		l.config.MaxWaiting = (most + 1) / 2
	}
	if given && most > 0 && l.config.MaxWaiting >= most {
		l.warn(fmt.Sprintf("--max-waiting %d is not below --max-connections %d: connections that send no header"+
			" can block all others", l.config.MaxWaiting, most), fmt.Sprintf("--max-waiting %d", most/2))
	}
}

// connections sets how many connections and flows there may be. A process that
// has both gives half of its descriptors to each kind.
func (l *loader) connections() {
	if l.src.Descriptors == 0 {
		return
	}
	streams, datagrams, names := 0, 0, 0
	for _, f := range l.config.Forwards {
		if f.Datagrams {
			datagrams += len(f.Listeners) * l.config.Loops
		} else {
			streams += len(f.Listeners)
			if f.Listeners[0].Activation != "" {
				names++
			}
		}
	}
	streams += max(0, l.src.Activated-names)
	free := l.src.Descriptors - l.src.Reserved - streams - datagrams - reserve(l.src.Descriptors, l.config.Loops)
	if free < 2 {
		l.errs = append(l.errs, NewProblem(
			fmt.Sprintf("%d listeners leave no file descriptor for a connection: the process may have %d",
				streams+datagrams, l.src.Descriptors), moreDescriptors))
		return
	}
	free -= l.copies(free, streams+datagrams)
	share := free
	if streams > 0 && datagrams > 0 {
		share = max(2, free/2)
	}
	if datagrams == 0 || streams > 0 {
		l.settle(maxConnectionsFlag, share/2, &l.config.MaxConnections)
	}
	if datagrams > 0 {
		l.settle(maxFlowsFlag, min(share, mostFlows), &l.config.MaxFlows)
	}
}

// copies returns how many of the free descriptors are kept back for an upgrade, which
// copies the listening sockets; those of flows need no copy here. If there are too
// few, the gateway serves without that reserve.
func (l *loader) copies(free, sockets int) int {
	n := sockets * l.src.PerListener
	if free-n >= 2 {
		return n
	}
	l.warnings = append(l.warnings, Warning{
		Message: fmt.Sprintf("%d file descriptors are too few for an upgrade (SIGUSR2) of %d listeners, it copies each",
			l.src.Descriptors, sockets),
		Hint:  moreDescriptors,
		About: AboutDescriptors,
	})
	return 0
}

const (
	moreDescriptors = "raise the limit, LimitNOFILE=1048576 in a systemd unit, else ulimit -n"
	// mostFlows is the default limit on flows, whatever descriptors there are:
	// each takes a few kilobytes of memory, the kernel's and the gateway's.
	mostFlows = 100_000
)

// settle sets a limit to what the descriptors allow, or warns of one that was
// given and is higher.
func (l *loader) settle(name string, allowed int, limit *int) {
	if !l.given(name) {
		*limit = allowed
		return
	}
	if *limit > allowed {
		l.warnings = append(l.warnings, Warning{
			Message: fmt.Sprintf("--%s %d is more than %d file descriptors allow, about %d",
				name, *limit, l.src.Descriptors, allowed),
			Hint:  moreDescriptors,
			About: AboutDescriptors,
		})
	}
}

// reserve is how many descriptors are not for connections: an eighth for the
// pipes of bulk streams, and a few for the loops, the log, address-list files
// and the resolver.
func reserve(descriptors, loops int) int {
	return descriptors/8 + 32 + 4*loops
}

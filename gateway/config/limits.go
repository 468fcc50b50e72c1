package config

import "fmt"

// limits sets the limit on connections and the one on connections that wait for
// their header. The default of the second is half of the first, so that peers
// which send no header cannot block all others.
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

// connections sets the limits on connections and flows. A process with both gives
// each half of its descriptors.
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
			fmt.Sprintf("%d listeners leave no file descriptors for connections: the limit is %d",
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

// copies returns the number of descriptors to reserve for an upgrade, which copies
// the listening sockets. The sockets of flows need no copy in this process. If too
// few descriptors are free, it warns and reserves none.
func (l *loader) copies(free, sockets int) int {
	n := sockets * l.src.PerListener
	if free-n >= 2 {
		return n
	}
	l.warnings = append(l.warnings, Warning{
		Message: fmt.Sprintf("%d file descriptors are too few for an upgrade (SIGUSR2), which copies each of %d listeners",
			l.src.Descriptors, sockets),
		Hint:  moreDescriptors,
		About: AboutDescriptors,
	})
	return 0
}

const (
	moreDescriptors = "raise the limit, LimitNOFILE=1048576 in a systemd unit, else ulimit -n"
	// mostFlows is the highest default limit on flows. A flow takes a few
	// kilobytes of memory in the kernel and in the gateway.
	mostFlows = 100_000
)

// settle sets a limit to the number that the descriptors allow. If a limit was
// given, it keeps it, and warns if it is higher.
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

// reserve returns the number of descriptors that are not for connections: an eighth
// for the pipes of bulk streams, and a few for the loops, the log, address-list
// files and the resolver.
func reserve(descriptors, loops int) int {
	return descriptors/8 + 32 + 4*loops
}

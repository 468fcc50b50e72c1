package config

import "fmt"

// limits sets the limits that follow from the descriptors and the memory of the process,
// and the one on connections that wait for their header. The default of the latter is half
// of the limit on connections, so that peers which send no header cannot block all others.
func (l *loader) limits() {
	l.buffers()
	l.connections()
	most, given := l.config.MaxConnections, l.given(maxWaitingFlag)
	if !given {
		l.config.MaxWaiting = (most + 1) / 2
	}
	if given && most > 1 && l.config.MaxWaiting >= most { // 0 is off: no limit is below 1
		l.warn(fmt.Sprintf("--max-waiting %d is not below --max-connections %d: connections that send no header"+
			" can block all others", l.config.MaxWaiting, most), fmt.Sprintf("--max-waiting %d", most/2))
	}
}

const (
	// bufferShare is the part of the memory that is for buffers by default: a sixteenth.
	// The kernel's own socket buffers, which it limits itself, may take more.
	bufferShare = 16
	// unknownMemory is what is assumed if the memory is not known.
	unknownMemory = 1 << 30
	// pipeMemory is what a pipe may hold. It is the kernel's memory, but limited by
	// MaxBuffer as well.
	pipeMemory = 1 << 20
	// pipeShare is the part of the descriptors that is for pipes, two for each: an eighth.
	pipeShare = 8
)

// buffers sets the default limit on buffers, and the limit on pipes.
func (l *loader) buffers() {
	c := l.config
	if !l.given(maxBufferFlag) {
		memory := l.src.Memory
		if memory <= 0 {
			memory = unknownMemory
		}
		c.MaxBuffer = max(leastBuffer, int(memory/bufferShare))
	}
	if l.src.Descriptors > 0 {
		c.MaxPipes = max(c.Loops, l.src.Descriptors/pipeShare/2)
	}
	if c.MaxBuffer > 0 && c.MaxPipes > 0 {
		c.MaxPipes = max(c.Loops, min(c.MaxPipes, c.MaxBuffer/pipeMemory))
	}
}

// connections sets the limits on connections and flows. A process with both gives
// each half of its descriptors.
func (l *loader) connections() {
	if l.src.Descriptors == 0 {
		return
	}
	streams, datagrams := l.sockets()
	free := l.src.Descriptors - l.src.Reserved - streams - datagrams - l.reserve()
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
		l.settle(limit{maxConnectionsFlag, share / 2, share / 2}, &l.config.MaxConnections)
	}
	if datagrams > 0 {
		l.settle(limit{maxFlowsFlag, min(share, mostFlows), share}, &l.config.MaxFlows)
	}
}

// sockets returns the number of listening sockets, TCP and unix, and UDP.
func (l *loader) sockets() (streams, datagrams int) {
	names := 0
	for _, f := range l.config.Forwards {
		if f.Datagrams {
			datagrams += len(f.Listeners) * l.config.Loops
			continue
		}
		streams += len(f.Listeners)
		if f.Listeners[0].Activation != "" {
			names++
		}
	}
	return streams + max(0, l.src.Activated-names), datagrams
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

// limit is a limit on connections or flows: the flag that sets it, its default, and the
// highest number that the descriptors allow.
type limit struct {
	flag           string
	standard, most int
}

// settle sets a limit. One that was given is lowered to what the descriptors allow, with a
// warning, and 0 is all that they allow: beyond that, connections would take the
// descriptors that the admin endpoint, reloads and upgrades need.
func (l *loader) settle(of limit, value *int) {
	switch {
	case !l.given(of.flag):
		*value = of.standard
	case *value == 0:
		*value = of.most
	case *value > of.most:
		l.warnings = append(l.warnings, Warning{
			Message: fmt.Sprintf("--%s %d is more than %d file descriptors allow: the limit is %d",
				of.flag, *value, l.src.Descriptors, of.most),
			Hint:  moreDescriptors,
			About: AboutDescriptors,
		})
		*value = of.most
	}
}

const (
	// processDescriptors are for the standard streams, the log, the runtime's poller, and
	// the files that are open one at a time, such as address lists.
	processDescriptors = 32
	// loopDescriptors are for an event loop.
	loopDescriptors = 4
	// nameDescriptors are for looking up a backend's name: a socket for each address family.
	nameDescriptors = 2
	// checkDescriptors are for the checks of backends that run at a time.
	checkDescriptors = 16
)

// reserve returns the number of descriptors that are not for connections: those of pipes,
// and of what must work at the limit of connections.
func (l *loader) reserve() int {
	c := l.config
	n := 2*c.MaxPipes + processDescriptors + loopDescriptors*c.Loops
	hosts := map[string]bool{}
	checks := false
	for _, f := range c.Forwards {
		checks = checks || f.BackendCheck > 0
		for i := range f.Listeners {
			for _, b := range f.Listeners[i].Backends {
				if b.Host != "" {
					hosts[b.Host] = true
				}
			}
		}
	}
	if checks {
		n += checkDescriptors
	}
	return n + nameDescriptors*len(hosts)
}

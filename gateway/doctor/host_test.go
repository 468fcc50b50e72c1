package doctor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"unproxy/gateway/config"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

var ap = netip.MustParseAddrPort

const (
	allCapabilities = "000001ffffffffff"
	onlyNetRaw      = "0000000000002000"
	none            = "0000000000000000"
)

// status returns proc/self/status of a process with these capabilities.
func status(effective, permitted, bounding, noNewPrivileges string) string {
	return "Name:\tunproxy\nCapInh:\t" + none + "\nCapPrm:\t" + permitted + "\nCapEff:\t" + effective +
		"\nCapBnd:\t" + bounding + "\nCapAmb:\t" + none + "\nNoNewPrivs:\t" + noNewPrivileges + "\n"
}

// world describes a host. Tests modify it, and [world.host] returns it as a [Host].
type world struct {
	files map[string]string
	links map[string]string
	reach map[string]returnpath.Reach // of backends; loopback if absent
	nets  map[string][]netip.Prefix   // by interface
	names map[string][]netip.Addr

	// plain and client are the errors, by address, of connections from the gateway
	// and from a client.
	plain, client map[string]error
	sent          map[string]netip.AddrPort // by backend: the source of clients' packets, if not their own

	missing      func(returnpath.Plan) returnpath.Plan // the part of a plan that is not in force
	missingErr   error
	decision     routing.Decision
	decisionErr  error
	lookup       func(routing.Reply) (routing.Decision, error) // replaces decision and decisionErr
	optionErr    error
	programsErr  error
	offers       map[string]error // errors of offers, by address
	bind         map[string]error
	listenErr    error
	ruleset      string
	rulesetErr   error
	sightErr     error
	fileCaps     uint64
	mu           sync.Mutex
	attempts     []Attempt
	listens      []netip.AddrPort // in place of backends
	missingCalls int
	onConnect    func(Attempt) error // replaces plain and client
	changes      <-chan struct{}     // see [Host.Changes]
}

// healthy returns a host without problems.
func healthy() *world {
	return &world{
		files: map[string]string{
			"proc/self/status":                             status(allCapabilities, allCapabilities, allCapabilities, "0"),
			"proc/sys/net/core/somaxconn":                  "4096\n",
			"proc/sys/net/ipv6/conf/all/disable_ipv6":      "0\n",
			"proc/sys/net/ipv6/conf/lo/disable_ipv6":       "0\n",
			"proc/sys/net/ipv4/ip_nonlocal_bind":           "0\n",
			"proc/sys/net/ipv4/ip_unprivileged_port_start": "1024\n",
			"proc/sys/net/ipv4/conf/all/route_localnet":    "0\n",
			"proc/sys/net/ipv4/conf/eth0/route_localnet":   "0\n",
			"proc/sys/net/netfilter/nf_conntrack_count":    "12\n",
			"proc/sys/net/netfilter/nf_conntrack_max":      "1000\n",
			"proc/self/net/tcp":                            tcpTable,
			"proc/self/net/udp":                            udpTable,
			"run/unproxy/.keep":                            "",
			"proc/17/comm":                                 "sshd\n",
			"proc/17/fd/.keep":                             "",
			"proc/18/comm":                                 "unproxy\n",
			"proc/18/fd/.keep":                             "",
		},
		links: map[string]string{
			"proc/17/exe": "/usr/sbin/sshd", "proc/17/fd/3": "socket:[4711]",
			"proc/18/exe": "/usr/bin/unproxy", "proc/18/fd/3": "socket:[4712]", "proc/18/fd/4": "socket:[4713]",
		},
		reach: map[string]returnpath.Reach{}, names: map[string][]netip.Addr{},
		plain: map[string]error{}, client: map[string]error{}, sent: map[string]netip.AddrPort{}, bind: map[string]error{},
		missing: func(returnpath.Plan) returnpath.Plan { return returnpath.Plan{} },
	}
}

// tcpTable has sshd on 127.0.0.1:22, the gateway on 0.0.0.0:2222, and a
// connection.
const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0
`

// udpTable has servers on 127.0.0.1:53 and 0.0.0.0:54, the gateway's listener on
// 0.0.0.0:2053, and the connected socket of a flow.
const udpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   0: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
   1: 00000000:0036 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
   2: 00000000:0805 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
   3: 0100007F:0037 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 4713 2 0000000000000000 0
`

// allMissing is [world.missing] of a host on which no part of a plan is in force.
func allMissing(p returnpath.Plan) returnpath.Plan { return p }

func (w *world) host() Host {
	files := fstest.MapFS{}
	for name, text := range w.files {
		files[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	for name, to := range w.links {
		files[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink}
	}
	return Host{
		Files: files, Executable: "/usr/bin/unproxy", FileCapabilities: w.fileCaps,
		Options:   func(bool, bool) error { return w.optionErr },
		Programs:  func() error { return w.programsErr },
		Addresses: func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32")}, nil },
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			if a := w.names[name]; a != nil {
				return slices.Clone(a), nil
			}
			return nil, errors.New("lookup " + name + ": no such host")
		},
		Connect: w.connect,
		Sight:   func() error { return w.sightErr },
		Listen: func(at netip.AddrPort) (io.Closer, error) {
			if w.listenErr != nil {
				return nil, w.listenErr
			}
			w.listens = append(w.listens, at)
			return io.NopCloser(nil), nil
		},
		Bind:    func(at netip.AddrPort, _ bool) error { return w.bind[at.String()] },
		BindUDP: func(at netip.AddrPort, _ bool) error { return w.bind["udp "+at.String()] },
		Plan: func(ctx context.Context, c *config.Config, names lookupFunc) (returnpath.Plan, error) {
			return routing.Plan(ctx, c.Targets(), routing.Surroundings{Lookup: names, Locate: w.locate})
		},
		Missing: func(_ context.Context, p returnpath.Plan) (returnpath.Plan, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.missingCalls++
			return w.missing(p), w.missingErr
		},
		Networks: func(device string) ([]netip.Prefix, error) { return w.nets[device], nil },
		LookupRoute: func(r routing.Reply) (routing.Decision, error) {
			if w.lookup != nil {
				return w.lookup(r)
			}
			return w.decision, w.decisionErr
		},
		Changes: func(ctx context.Context, changed func()) {
			for {
				select {
				case <-ctx.Done():
					return
				case <-w.changes:
					changed()
				}
			}
		},
		Firewall: func(context.Context) (string, error) { return w.ruleset, w.rulesetErr },
	}
}

// connect implements [Host.Connect]. What times out takes until ctx is done.
func (w *world) connect(ctx context.Context, a Attempt) (netip.AddrPort, error) {
	local, err := w.answer(a)
	if w.changes != nil && errors.Is(err, timedOut) {
		<-ctx.Done()
	}
	return local, err
}

func (w *world) answer(a Attempt) (netip.AddrPort, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, a)
	local := ap("10.9.0.1:40000")
	if a.From.IsValid() {
		local = a.From
		if sent, ok := w.sent[a.To.String()]; ok {
			local = sent
		}
	}
	if w.onConnect != nil {
		return local, w.onConnect(a)
	}
	if a.Client.IsValid() {
		if w.programsErr != nil {
			return local, w.programsErr
		}
		if err := w.plain[a.To.String()]; err != nil {
			return local, err
		}
		return local, w.offers[a.To.String()]
	}
	if a.From.IsValid() {
		return local, w.client[a.To.String()]
	}
	if slices.Contains(w.listens, a.To) {
		return ap("10.9.0.1:40000"), nil
	}
	return ap("10.9.0.1:40000"), w.plain[a.To.String()]
}

func (w *world) locate(all []returnpath.Backend) ([]returnpath.Backend, error) {
	for i := range all {
		r, ok := w.reach[all[i].Addr.Addr().String()]
		if !ok {
			r = returnpath.Reach{Place: returnpath.Loopback, Device: "lo"}
		}
		all[i].Reach = r
	}
	return all, nil
}

// configFor returns the configuration of a gateway with these flags and a trust rule.
func configFor(t *testing.T, flags string) (*config.Config, []config.Warning) {
	t.Helper()
	source := config.Source{Settings: config.Values{"trust": {"10.0.0.2"}}, Descriptors: 20000}
	words := strings.Fields(flags)
	for i := 0; i+1 < len(words); i += 2 {
		name := strings.TrimPrefix(words[i], "--")
		switch name {
		case "forward":
			source.Forwards = append(source.Forwards, words[i+1])
		case "trust":
			source.Settings[name] = []string{words[i+1]}
		default:
			source.Settings[name] = append(source.Settings[name], words[i+1])
		}
	}
	c, warnings, err := config.Load(source)
	if err != nil {
		t.Fatal(err)
	}
	return c, warnings
}

// run runs all checks for a gateway with these flags.
func (w *world) run(t *testing.T, flags string) Report {
	t.Helper()
	c, warnings := configFor(t, flags)
	return Run(context.Background(), w.host(), Subject{Config: c, Warnings: warnings, Descriptors: 20000})
}

// lines returns a line for each finding that is not ok, or for all: code, target,
// status and the commands of the hint.
func (r Report) lines(all bool) []string {
	var out []string
	for _, f := range r.Findings {
		if f.Status == OK && !all {
			continue
		}
		s := string(f.Code) + " " + f.Target + " " + f.Status.String()
		for _, a := range f.Hint {
			if !strings.HasPrefix(a, "#") {
				s += "; " + a
			}
		}
		out = append(out, s)
	}
	return out
}

var timedOut error = context.DeadlineExceeded

func refusal() error { return &netErr{syscall.ECONNREFUSED} }

// netErr is an errno wrapped as by package net.
type netErr struct{ errno syscall.Errno }

func (e *netErr) Error() string { return "dial tcp: connect: " + e.errno.Error() }
func (e *netErr) Unwrap() error { return e.errno }

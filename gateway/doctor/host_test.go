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

	"unproxy/gateway"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

var ap = netip.MustParseAddrPort

const (
	allCapabilities = "000001ffffffffff"
	onlyNetRaw      = "0000000000002000"
	none            = "0000000000000000"
)

// status is what proc/self/status says of a process's capabilities.
func status(effective, permitted, bounding, noNewPrivileges string) string {
	return "Name:\tunproxy\nCapInh:\t" + none + "\nCapPrm:\t" + permitted + "\nCapEff:\t" + effective +
		"\nCapBnd:\t" + bounding + "\nCapAmb:\t" + none + "\nNoNewPrivs:\t" + noNewPrivileges + "\n"
}

// world is a host that is made up: what is in it is changed by the tests, and
// the [Host] that it makes looks at it.
type world struct {
	files map[string]string
	links map[string]string
	reach map[string]returnpath.Reach // of backends, loopback unless it says otherwise
	names map[string][]netip.Addr

	// Backends by address: what becomes of a plain connection and of one from a
	// client. Those that are not there answer; a client only if the rules are
	// there.
	plain, client map[string]error

	gone         func(returnpath.Plan) returnpath.Plan // what of a plan is not in force
	missingErr   error
	way          routing.Decision
	wayErr       error
	optionErr    error
	bind         map[string]error
	standErr     error
	ruleset      string
	rulesetErr   error
	fileCaps     uint64
	mu           sync.Mutex
	attempts     []Attempt
	stood        []netip.AddrPort
	looked       int // at what is missing
	transmission func(Attempt) error
}

// healthy is a host on which everything is as it must be.
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
		plain: map[string]error{}, client: map[string]error{}, bind: map[string]error{},
		gone: func(returnpath.Plan) returnpath.Plan { return returnpath.Plan{} },
	}
}

// tcpTable has sshd on 127.0.0.1:22 and the gateway on 0.0.0.0:2222, and a
// connection that does not listen.
const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0
`

// udpTable has a server on 127.0.0.1:53, one on 0.0.0.0:54, the gateway's listener
// on 0.0.0.0:2053, and one of its flows, which is connected.
const udpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   0: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
   1: 00000000:0036 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
   2: 00000000:0805 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
   3: 0100007F:0037 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 4713 2 0000000000000000 0
`

// allGone is a host on which nothing of a plan is in force.
func allGone(p returnpath.Plan) returnpath.Plan { return p }

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
		Options: func(bool, bool) error { return w.optionErr },
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			if a := w.names[name]; a != nil {
				return slices.Clone(a), nil
			}
			return nil, errors.New("lookup " + name + ": no such host")
		},
		Connect: w.connect,
		Stand: func(at netip.AddrPort) (io.Closer, error) {
			if w.standErr != nil {
				return nil, w.standErr
			}
			w.stood = append(w.stood, at)
			return io.NopCloser(nil), nil
		},
		Bind:    func(at netip.AddrPort, _ bool) error { return w.bind[at.String()] },
		BindUDP: func(at netip.AddrPort, _ bool) error { return w.bind["udp "+at.String()] },
		Plan: func(ctx context.Context, c *gateway.Config, names lookup) (returnpath.Plan, error) {
			return c.PlanRoutes(ctx, gateway.Surroundings{Lookup: names, Locate: w.locate})
		},
		Missing: func(_ context.Context, p returnpath.Plan) (returnpath.Plan, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looked++
			return w.gone(p), w.missingErr
		},
		Way:      func(routing.Reply) (routing.Decision, error) { return w.way, w.wayErr },
		Firewall: func(context.Context) (string, error) { return w.ruleset, w.rulesetErr },
	}
}

func (w *world) connect(_ context.Context, a Attempt) (netip.AddrPort, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, a)
	if w.transmission != nil {
		return ap("10.9.0.1:40000"), w.transmission(a)
	}
	if a.From.IsValid() {
		return a.From, w.client[a.To.String()]
	}
	if slices.Contains(w.stood, a.To) {
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

// config is the configuration of a gateway with these flags and one trust rule.
func config(t *testing.T, flags string) (*gateway.Config, []gateway.Warning) {
	t.Helper()
	source := gateway.Source{Settings: gateway.Values{"trust": {"10.0.0.2"}}, Descriptors: 20000}
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
	c, warnings, err := gateway.Load(source)
	if err != nil {
		t.Fatal(err)
	}
	return c, warnings
}

// examine examines a gateway with these flags on the host.
func (w *world) examine(t *testing.T, flags string) Report {
	t.Helper()
	c, warnings := config(t, flags)
	return Examine(context.Background(), w.host(), Subject{Config: c, Warnings: warnings, Descriptors: 20000})
}

// lines writes the findings that are not ok, or all, one each: code, target,
// status and what mends it.
func (r Report) lines(all bool) []string {
	var out []string
	for _, f := range r.Findings {
		if f.Status == OK && !all {
			continue
		}
		s := string(f.Code) + " " + f.Target + " " + f.Status.String()
		for _, a := range f.Action {
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

// netErr is an errno as package net wraps it.
type netErr struct{ errno syscall.Errno }

func (e *netErr) Error() string { return "dial tcp: connect: " + e.errno.Error() }
func (e *netErr) Unwrap() error { return e.errno }

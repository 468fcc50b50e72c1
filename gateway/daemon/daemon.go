// Package daemon runs a gateway as a process: signals, reload, upgrade, systemd,
// inherited sockets, the admin endpoint and the self-test of return paths.
//
//	starting ─▶ serving ─▶ draining ─▶ exit
//	               └─(SIGUSR2)─▶ handed over, draining ─▶ exit
//
// [Run] runs the daemon from start to exit. One goroutine owns the state and handles
// all events, see life.go.
package daemon

import (
	"context"
	"iter"
	stdlog "log"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"unproxy/gateway"
	"unproxy/gateway/accesslog"
	"unproxy/gateway/admin"
	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/doctor"
	"unproxy/gateway/forward"
	"unproxy/gateway/readiness"
	"unproxy/gateway/record"
	"unproxy/gateway/sandbox"
	"unproxy/gateway/supervise"
)

// Config is the configuration of a daemon.
type Config struct {
	// Gateway is the configuration of the gateway.
	Gateway *config.Config
	// Log is the configuration of the log, with its writer.
	Log accesslog.Config
	// Admin is the admin endpoint, and the health endpoint.
	Admin Admin
	// Warnings are logged at the start and shown by the admin endpoint.
	Warnings []config.Warning
	// Version is the program's version, for the admin endpoint. VersionLine is the
	// same in one line, for the log.
	Version     admin.Version
	VersionLine string
	// ApplyCommand is the shell command that applies the routes of transparent
	// mode on this host. PrintCommand prints the routes for the backends' host. Both
	// appear in hints; the daemon does not run them.
	ApplyCommand, PrintCommand string
}

// Admin says where the admin endpoint and the health endpoint listen.
type Admin struct {
	// Address is where the admin endpoint listens; the zero value disables it.
	Address admin.Address
	// Profiles serves profiles of the program there, too.
	Profiles bool
	// Health is where the health endpoint listens; the zero value disables it.
	Health admin.Address
}

// Endpoints yields the endpoints that are not disabled.
func (a Admin) Endpoints() iter.Seq2[admin.Kind, admin.Address] {
	return func(yield func(admin.Kind, admin.Address) bool) {
		if !a.Address.IsZero() && !yield(admin.Control, a.Address) {
			return
		}
		if !a.Health.IsZero() {
			yield(admin.Probes, a.Health)
		}
	}
}

// Taken returns what the endpoints listen on.
func (a Admin) Taken() (all []config.Taken) {
	for kind, at := range a.Endpoints() {
		all = append(all, config.Taken{Flag: kind.Flag(), Endpoint: forward.Endpoint{Addr: at.TCP, Path: at.Path}})
	}
	return all
}

// daemon is a gateway and what runs beside it. All fields are set before the gateway
// accepts connections, except those with a lock of their own.
type daemon struct {
	config    Config
	log       *zerolog.Logger
	access    *accesslog.Log
	gateway   *gateway.Gateway
	readiness readiness.State
	shortage  shortage
	failing   failing
	backends  sync.Mutex // around each update of readiness by the state of backends
	systemd   systemd

	takenBans []byte // the text of the previous process's bans, as far as it has arrived

	endpoints    endpoints
	refusals     *admin.Refusals
	findings     *doctor.Cache
	watch        *doctor.Watch // nil if no forward is transparent
	stopRequests chan string   // requests of the admin endpoint, by name

	program supervise.Program // started again by an upgrade
	parent  *supervise.Parent // the process that this one takes over from, or nil
	spare   spareSockets
	sandbox atomic.Pointer[sandbox.Report] // nil before it is applied

	opened   chan struct{} // closed when gateway is set
	inCharge chan struct{} // closed when the previous process has left the service
}

// Run runs a gateway until a signal, a request or an upgrade ends it. It calls load
// once, with the number of sockets passed by systemd. An error of load is also
// reported to the previous process during an upgrade. Run uses the environment, the
// signals and the inherited file descriptors of the process; call it only once.
func Run(load func(activated int) (Config, error)) (err error) {
	inherited, err := supervise.Inherit()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			inherited.Parent.Failed(err)
		}
	}()
	program, err := supervise.ThisProgram()
	if err != nil {
		return err
	}
	if err := raiseDescriptors(); err != nil {
		return err
	}
	limitMemory()
	c, err := load(activated(inherited.Sockets))
	if err != nil {
		return err
	}
	// The reader of the log may exit. A write to a broken pipe on stderr ends a Go
	// process unless SIGPIPE is ignored.
	signal.Ignore(syscall.SIGPIPE)
	access, err := accesslog.New(c.Log)
	if err != nil {
		return err
	}
	defer access.Close()
	stdlog.SetOutput(access.Standard())
	d := newDaemon(c, access)
	d.program, d.parent = program, inherited.Parent
	if err := d.adopt(inherited.Sockets); err != nil {
		return err
	}
	d.adoptBans()
	if d.parent == nil {
		if err := d.config.Gateway.Bans.Save(); err != nil { // shows now that it can be written
			return err
		}
	}
	return d.run()
}

func newDaemon(c Config, access *accesslog.Log) *daemon {
	if c.Gateway.Bans == nil {
		c.Gateway.Bans = ban.New(time.Now)
	}
	d := &daemon{
		config:       c,
		log:          access.Logger(),
		access:       access,
		systemd:      systemd{log: access.Logger(), notifier: supervise.NewNotifier()},
		stopRequests: make(chan string, 1),
		opened:       make(chan struct{}),
		inCharge:     make(chan struct{}),
	}
	for _, w := range c.Warnings {
		withHint(d.log.Warn(), w.Hint).Msg(w.Message)
	}
	d.watch = d.newWatch()
	subject := doctor.Subject{Config: c.Gateway, Warnings: c.Warnings, Descriptors: Descriptors(),
		Sandbox: d.sandboxReport}
	d.findings = doctor.NewCache(doctor.This(), subject, d.watch, nil)
	if !c.Admin.Address.IsZero() {
		d.refusals = admin.NewRefusals(nil)
	}
	return d
}

// run opens the listeners and serves until the gateway has drained.
func (d *daemon) run() error {
	SetThreads(d.config.Gateway.Loops)
	// Catch signals before the process shows that it runs: an uncaught SIGHUP or
	// SIGUSR2 would end it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(signals)
	d.readiness.Set(readiness.Starting, "")
	defer d.endpoints.close()
	if err := d.startEndpoints(); err != nil {
		return err
	}
	d.spare.close(d.log)
	if err := d.open(); err != nil {
		return err
	}
	if err := d.confine(); err != nil {
		return err
	}
	d.endpoints.attach(d.gateway)
	d.logListening()

	ctx, drain := context.WithCancel(context.Background())
	defer drain()
	exit := make(chan struct{})
	l := newLife(d, signals, drain)
	var living sync.WaitGroup
	living.Go(func() { l.live(exit) })
	runtime.GC() // the first sessions reuse memory from the start
	err := d.gateway.Run(ctx)
	close(exit)
	living.Wait()
	if l.handedOver {
		d.endpoints.leave()
	}
	d.logStopped()
	return err
}

// open opens the gateway's listeners.
func (d *daemon) open() error {
	g, err := gateway.New(d.config.Gateway, gateway.Observer{Connection: d.observe, Notice: d.notice})
	if err != nil {
		return explainInUse(doctor.This(), err)
	}
	g.Reserve(d.endpoints.listeners()...)
	d.gateway = g
	close(d.opened)
	return nil
}

// observe passes a finished connection to the log and to the admin endpoint.
func (d *daemon) observe(c *record.Connection) {
	if d.watch != nil {
		d.advise(c)
	}
	d.access.Connection(c)
	if d.refusals != nil {
		d.refusals.Note(c)
	}
}

// advise adds to the record of a connection without a return path how to restore it.
func (d *daemon) advise(c *record.Connection) {
	switch {
	case c.Outcome == record.NoReturnPath:
		c.Action = d.watch.Hint(c.Backend.Addr())
	case c.AnswersOthers:
		client := c.Client
		if c.Source.IsValid() {
			client = c.Source
		}
		if c.Action = d.watch.BypassHint(c.Backend.Addr(), client.Addr()); c.Action != "" {
			c.Reason = "the backend answers other clients; this one is in the backend's own network, " +
				"and the backend may reply to it directly"
		}
	}
}

// active returns the number of connections and flows that have not ended.
func (d *daemon) active() int { return d.gateway.Counters().Active + d.gateway.Datagrams().Flows }

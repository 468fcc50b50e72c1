package command

import (
	"context"
	"errors"
	stdlog "log"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"unproxy/gateway"
	"unproxy/gateway/accesslog"
	"unproxy/gateway/doctor"
	"unproxy/gateway/engine"
	"unproxy/gateway/record"
	"unproxy/gateway/settings"
	"unproxy/gateway/supervise"
)

// server is a gateway that runs as a daemon.
type server struct {
	config    *gateway.Config
	run       *gateway.Gateway
	log       *zerolog.Logger
	access    *accesslog.Log
	admin     adminConfig
	watch     *doctor.Watch // nil where no forward is transparent
	examiner  *doctor.Examiner
	readiness gateway.Readiness
	stopAdmin func()
	adminGate *gate // nil where there is no admin endpoint
	shortage  struct {
		sync.Mutex
		loops int // that are out of descriptors or memory
	}
	systemd teller
	program supervise.Program   // what takes over at an upgrade
	parent  *supervise.Parent   // whom this process takes over from, or nil
	spare   []gateway.Inherited // what was handed over and nobody took
	made    chan struct{}       // closed when run is there
	serving chan struct{}       // closed when no process before this one serves any more
}

// runServe runs the gateway until a signal ends it.
func runServe(ctx *cli.Context, g *given) (err error) {
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
	c, err := configure(g)
	if err != nil {
		return err
	}
	// A reader of the log that goes away must not take the gateway with it:
	// Go ends a process that writes to a broken pipe on stderr.
	signal.Ignore(syscall.SIGPIPE)
	c.log.Writer = ctx.App.ErrWriter
	log, err := accesslog.New(c.log)
	if err != nil {
		return err
	}
	defer log.Close()
	// The log's ring reports collisions to the standard logger, on an event
	// loop: they must not block on stderr.
	defer stdlog.SetOutput(stdlog.Writer())
	stdlog.SetOutput(log.Standard())
	for _, w := range c.warnings {
		log.Logger().Warn().Str("hint", w.Remedy).Msg(w.Message)
	}
	s := &server{config: c.gateway, log: log.Logger(), access: log, admin: c.admin,
		program: program, parent: inherited.Parent, made: make(chan struct{}), serving: make(chan struct{})}
	s.systemd.notifier.Socket = os.Getenv("NOTIFY_SOCKET")
	if err := s.adopt(inherited.Sockets); err != nil {
		return err
	}
	s.watch = s.newWatch(g)
	s.examiner = doctor.NewExaminer(doctor.This(), doctor.Subject{Config: c.gateway, Warnings: c.warnings, Descriptors: descriptors()}, s.watch, nil)
	c.gateway.Observe = func(c *record.Connection) {
		if c.Outcome == record.NoReturnPath && s.watch != nil {
			c.Action = s.watch.Remedy(c.Backend.Addr())
		}
		log.Connection(c)
	}
	c.gateway.Notice = s.notice
	return s.serve()
}

// logConfig reads the settings of the log.
func logConfig(g *given) (accesslog.Config, error) {
	var c accesslog.Config
	var errs []error
	word := func(name string, take func(string) error, words ...string) {
		values := g.values[name]
		if len(values) == 0 {
			return
		}
		text := values[len(values)-1]
		_, err := settings.Word(text, words...)
		if err == nil {
			err = take(text)
		}
		if err != nil {
			errs = append(errs, gateway.FlagProblem(name, text, err))
		}
	}
	word("log-format", func(s string) (err error) { c.Format, err = accesslog.ParseFormat(s); return err }, "auto", "json", "console")
	word("log-level", func(s string) (err error) { c.Level, err = accesslog.ParseLevel(s); return err }, "debug", "info", "warn", "error")
	word("access-log", func(s string) (err error) { c.Mode, err = accesslog.ParseMode(s); return err }, "all", "errors", "off")
	return c, errors.Join(errs...)
}

// serve opens the listeners and serves until it is told to stop.
func (s *server) serve() error {
	threads(s.config.Loops)
	// Before anything says that the gateway is there: a signal may follow at
	// once, and would end the process unasked.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(signals)
	s.readiness.Set(gateway.NotReadyStarting, "")
	attach, stopAdmin, err := s.startAdmin(signals)
	if err != nil {
		return err
	}
	s.stopAdmin = sync.OnceFunc(stopAdmin)
	defer s.stopAdmin()
	s.closeSpare()
	run, err := gateway.New(*s.config)
	if err != nil {
		return err
	}
	s.run = run
	close(s.made)
	attach(run)
	s.sayListening()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan struct{})
	l := newLife(s, signals, stop)
	var watching sync.WaitGroup
	watching.Go(func() { l.lead(ended) })
	runtime.GC() // the first sessions have the room of what starting took
	err = run.Run(ctx)
	close(ended)
	watching.Wait()
	if l.handed {
		s.leaveAdmin()
	}
	s.sayStopped()
	return err
}

// sayStopped logs how much was done, and what the drain did not wait for.
func (s *server) sayStopped() {
	var accepted, flows, cut uint64
	tallies, _ := s.run.Tallies(context.Background()) // the loops have ended: there is nothing to wait for
	for i := range tallies {
		if s.config.Forwards[i].Datagrams {
			flows += tallies[i].Accepted
		} else {
			accepted += tallies[i].Accepted
		}
		for _, n := range tallies[i].Closed[record.Drained] {
			cut += n
		}
	}
	s.log.Info().Uint64("accepted", accepted).Uint64("flows", flows).Uint64("cut", cut).Msg("stopped")
}

// sayListening logs where the gateway listens.
func (s *server) sayListening() {
	bound := s.run.Addrs()
	for _, f := range s.config.Forwards {
		for _, l := range f.Listeners {
			s.log.Info().Str("forward", l.Name).Str("address", bound[0].String()).Msg("listening")
			bound = bound[1:]
		}
	}
}

// sayReady logs that connections are accepted, and what holds for them.
func (s *server) sayReady() {
	transparent, rules := false, 0
	for _, f := range s.config.Forwards {
		transparent = transparent || f.Transparent
		rules = max(rules, len(gateway.Rules(f.Trust)))
	}
	s.log.Info().Str("version", strings.TrimPrefix(thisVersion().String(), "unproxy ")).
		Int("forwards", len(s.config.Forwards)).Int("loops", s.config.Loops).Int("trust_rules", rules).
		Bool("transparent", transparent).Int("backlog", backlog()).Int("max_connections", s.config.MaxConnections).
		Int("udp_max_flows", s.config.MaxFlows).
		Int("pid", os.Getpid()).Msg("ready")
}

// active is the number of connections and flows that have not ended.
func (s *server) active() int { return s.run.Counters().Active + s.run.Datagrams().Flows }

// notice logs an event that belongs to no connection.
func (s *server) notice(n engine.Notice) {
	s.noteShortage(n)
	line := s.log.Warn()
	if n.Event == "resolved" || n.Event == "accept_resumed" {
		line = s.log.Info()
	}
	line = line.Str("event", n.Event)
	if n.Forward != "" {
		line = line.Str("forward", n.Forward)
	}
	if n.Detail != "" {
		line = line.Str("detail", n.Detail)
	}
	if n.Err != nil {
		line = line.Str("error", oneLine(n.Err.Error()))
	}
	line.Msg(strings.ReplaceAll(n.Event, "_", " "))
}

// noteShortage keeps the gateway from being called ready while any of its loops
// cannot accept. A loop tells of the end of each shortage that it told of.
func (s *server) noteShortage(n engine.Notice) {
	s.shortage.Lock()
	defer s.shortage.Unlock()
	switch n.Event {
	case "accept_paused":
		s.shortage.loops++
		s.readiness.Set(gateway.NotReadyDescriptors, n.Detail)
	case "accept_resumed":
		if s.shortage.loops--; s.shortage.loops == 0 {
			s.readiness.Clear(gateway.NotReadyDescriptors)
		}
	}
}

package command

import (
	"context"
	"errors"
	"os"
	"os/signal"
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
)

// server is a gateway that runs as a daemon.
type server struct {
	config    *gateway.Config
	run       *gateway.Gateway
	log       *zerolog.Logger
	access    *accesslog.Log
	admin     adminConfig
	watch     *doctor.Watch // nil where no forward is transparent
	readiness gateway.Readiness
	shortage  struct {
		sync.Mutex
		loops int // that are out of descriptors or memory
	}
}

// runServe runs the gateway until a signal ends it.
func runServe(ctx *cli.Context, g *given) error {
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
	for _, w := range c.warnings {
		log.Logger().Warn().Str("hint", w.Remedy).Msg(w.Message)
	}
	s := &server{config: c.gateway, log: log.Logger(), access: log, admin: c.admin}
	s.watch = s.newWatch(g)
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
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	s.readiness.Set(gateway.NotReadyStarting, "")
	attach, stopAdmin, err := s.startAdmin(signals)
	if err != nil {
		return err
	}
	defer stopAdmin()
	run, err := gateway.New(*s.config)
	if err != nil {
		return err
	}
	s.run = run
	attach(run)
	s.sayListening()
	defer s.startWatch()()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		s.watchSignals(signals, stop, ended)
	}()
	err = run.Run(ctx)
	close(ended)
	<-watched
	s.sayStopped()
	return err
}

// sayStopped logs how much was done, and what the drain did not wait for.
func (s *server) sayStopped() {
	var accepted, cut uint64
	tallies, _ := s.run.Tallies(context.Background()) // the loops have ended: there is nothing to wait for
	for i := range tallies {
		accepted += tallies[i].Accepted
		for _, n := range tallies[i].Closed[record.Drained] {
			cut += n
		}
	}
	s.log.Info().Uint64("accepted", accepted).Uint64("cut", cut).Msg("stopped")
}

// sayListening logs where the gateway listens, and that it is ready.
func (s *server) sayListening() {
	bound := s.run.Addrs()
	transparent, rules := false, 0
	for _, f := range s.config.Forwards {
		transparent = transparent || f.Transparent
		rules = max(rules, len(gateway.Rules(f.Trust)))
		for _, l := range f.Listeners {
			s.log.Info().Str("forward", l.Name).Str("address", bound[0].String()).Msg("listening")
			bound = bound[1:]
		}
	}
	s.log.Info().Str("version", strings.TrimPrefix(thisVersion().String(), "unproxy ")).
		Int("forwards", len(s.config.Forwards)).Int("loops", s.config.Loops).Int("trust_rules", rules).
		Bool("transparent", transparent).Int("backlog", backlog()).Int("max_connections", s.config.MaxConnections).
		Int("pid", os.Getpid()).Msg("ready")
}

// watchSignals stops the gateway at the first signal, cuts its drain short at
// the second one, and returns when the gateway has ended.
func (s *server) watchSignals(signals <-chan os.Signal, stop context.CancelFunc, ended <-chan struct{}) {
	draining := false
	for {
		select {
		case <-ended:
			return
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.log.Warn().Msg("nothing was reloaded: this version reads its configuration at the start only")
				continue
			}
			if _, byRequest := sig.(asked); byRequest && draining {
				continue
			}
			if draining {
				s.log.Warn().Str("signal", sig.String()).Int("active", s.run.Counters().Active).Msg("drain cut short")
				s.run.Hurry()
				continue
			}
			draining = true
			s.readiness.Set(gateway.NotReadyDraining, "it was told to stop: "+sig.String())
			s.log.Info().Str("signal", sig.String()).Int("active", s.run.Counters().Active).
				Str("delay", s.config.DrainDelay.String()).Str("timeout", s.config.DrainTimeout.String()).Msg("draining")
			stop()
		}
	}
}

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

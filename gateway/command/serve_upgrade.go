package command

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// beginUpgrade starts the process that is to take over. It has the listening
// sockets, so that nothing that waits in their queues is lost whichever of the
// two comes to serve it.
func (l *life) beginUpgrade() {
	if reason := l.noUpgrade(); reason != "" {
		l.log.Warn().Str("reason", reason).Msg("no upgrade")
		return
	}
	child, err := l.startSuccessor()
	if err != nil {
		l.upgradeFailed(err)
		return
	}
	l.log.Info().Str("program", l.program.Path).Int("child", child.PID).Msg("upgrade: started the process that is to take over")
	l.successor = child
	go func() { l.upgraded <- child.AwaitReady(l.config.UpgradeTimeout) }()
}

// noUpgrade says why there can be none now, or "".
func (l *life) noUpgrade() string {
	switch {
	case l.draining():
		return "the gateway drains"
	case l.successor != nil:
		return "one is under way"
	case l.awaited != nil:
		return "this process is not ready itself"
	case slices.ContainsFunc(l.config.Forwards, func(f *forward.Forward) bool { return f.Datagrams }):
		return "there are forwards of UDP, whose flows cannot be handed over: restart the gateway"
	case os.Getpid() == 1:
		return "this is process 1 of its container, which would end with it: replace the container"
	}
	return ""
}

// startSuccessor starts the process with copies of the sockets.
func (l *life) startSuccessor() (*supervise.Child, error) {
	sockets, err := l.sockets()
	for _, s := range sockets {
		defer unix.Close(s.FD)
	}
	if err != nil {
		return nil, err
	}
	return l.program.Start(sockets)
}

// sockets returns copies of all that the process after this one needs. Those
// that were made are returned with an error, too.
func (l *life) sockets() ([]supervise.Socket, error) {
	all, err := l.adminSocket()
	if err != nil {
		return nil, err
	}
	open, err := l.run.Sockets()
	for _, s := range open {
		all = append(all, supervise.Socket{Name: s.Name, FD: s.FD, Held: s.Held})
	}
	return all, err
}

// endUpgrade leaves everything to the process that is ready to take over, or
// goes on where there is none.
func (l *life) endUpgrade(err error) {
	child := l.successor
	l.successor = nil
	if l.draining() {
		l.log.Warn().Msg("upgrade given up: the gateway drains")
		return
	}
	if err != nil {
		l.upgradeFailed(err)
		return
	}
	l.handed = true
	l.drain(l.config.DrainTimeout)
	l.tell(supervise.MainPID(child.PID), supervise.Status(fmt.Sprintf("process %d takes over", child.PID)))
	l.silence()
	child.Commit()
	l.run.HandOver()
	go func() {
		l.leaveAdmin()
		l.stopAdmin()
	}()
	l.log.Info().Int("child", child.PID).Int("active", l.run.Counters().Active).Str("timeout", l.config.DrainTimeout.String()).
		Msg("handed over; draining")
}

func (l *life) upgradeFailed(err error) {
	l.log.Error().Str("error", usage.OneLine(err.Error())).Msg("upgrade failed: this process goes on serving")
	l.tell(supervise.Status(l.servingStatus() + "; the last upgrade failed: " + usage.OneLine(err.Error())))
}

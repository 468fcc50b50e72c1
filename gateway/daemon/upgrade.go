package daemon

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// upgrade starts the process that takes over. It gets copies of the listening
// sockets: connections in their queues are served by whichever process accepts them.
func (l *life) upgrade() {
	if reason := l.noUpgrade(); reason != "" {
		l.log.Warn().Str("reason", reason).Msg("no upgrade")
		return
	}
	child, err := l.startSuccessor()
	if err != nil {
		l.upgradeFailed(err)
		return
	}
	l.log.Info().Str("program", l.program.Path).Int("child", child.PID).
		Msg("upgrade: started the process that is to take over")
	l.successor = child
	go func() { l.upgraded <- child.AwaitReady(l.config.Gateway.UpgradeTimeout) }()
}

// noUpgrade returns why there can be no upgrade now, or "".
func (l *life) noUpgrade() string {
	switch {
	case l.draining():
		return "the gateway drains"
	case l.successor != nil:
		return "one is under way"
	case !l.serving:
		return "this process is not ready itself"
	case slices.ContainsFunc(l.config.Gateway.Forwards, func(f *forward.Forward) bool { return f.Datagrams }):
		return "there are forwards of UDP, whose flows cannot be handed over: restart the gateway"
	case os.Getpid() == 1:
		return "this is process 1 of its container, which would end with it: replace the container"
	}
	return ""
}

// startSuccessor starts the program with copies of the sockets.
func (l *life) startSuccessor() (*supervise.Child, error) {
	sockets, err := l.copySockets()
	for _, s := range sockets {
		defer unix.Close(s.FD)
	}
	if err != nil {
		return nil, err
	}
	return l.program.Start(sockets)
}

// copySockets returns copies of the sockets of the endpoints and of all listeners. The caller owns their descriptors, with an error too.
func (l *life) copySockets() ([]supervise.Socket, error) {
	all, err := l.endpoints.copySockets()
	if err != nil {
		return all, err
	}
	open, err := l.gateway.Sockets()
	for _, s := range open {
		all = append(all, supervise.Socket{Name: s.Name, FD: s.FD, Held: s.Held})
	}
	return all, err
}

// finishUpgrade leaves the service to the successor, or goes on serving if that
// failed with err.
func (l *life) finishUpgrade(err error) {
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
	timeout := l.config.Gateway.DrainTimeout
	l.handedOver = true
	l.reportDrain(timeout)
	l.systemd.tell(supervise.MainPID(child.PID), supervise.Status(fmt.Sprintf("process %d takes over", child.PID)))
	l.systemd.silence()
	child.Commit()
	l.gateway.HandOver()
	go func() {
		l.endpoints.leave()
		l.endpoints.close()
	}()
	l.log.Info().Int("child", child.PID).Int("active", l.gateway.Counters().Active).Str("timeout", timeout.String()).
		Msg("handed over; draining")
}

func (l *life) upgradeFailed(err error) {
	l.log.Error().Str("error", oneLine(err)).Msg("upgrade failed: this process goes on serving")
	l.systemd.tell(supervise.Status(l.servingStatus() + "; the last upgrade failed: " + oneLine(err)))
}

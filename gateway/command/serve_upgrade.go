package command

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"unproxy/gateway"
	"unproxy/gateway/engine"
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
	case os.Getpid() == 1:
		return "this is process 1 of its container, which would end with it: replace the container"
	}
	return ""
}

// startSuccessor starts the process with copies of the sockets.
func (l *life) startSuccessor() (*supervise.Child, error) {
	open, err := l.run.Sockets()
	if err != nil {
		return nil, err
	}
	sockets := make([]supervise.Socket, len(open))
	for i, s := range open {
		defer unix.Close(s.FD)
		sockets[i] = supervise.Socket{Name: s.Name, FD: s.FD, Held: s.Held}
	}
	return l.program.Start(sockets)
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
	l.log.Info().Int("child", child.PID).Int("active", l.run.Counters().Active).Str("timeout", l.config.DrainTimeout.String()).
		Msg("handed over; draining")
}

func (l *life) upgradeFailed(err error) {
	l.log.Error().Str("error", oneLine(err.Error())).Msg("upgrade failed: this process goes on serving")
	l.tell(supervise.Status(l.servingStatus() + "; the last upgrade failed: " + oneLine(err.Error())))
}

// adopt gives the listeners the sockets that the process was started with, and
// keeps those that nobody takes until it is the service.
func (s *server) adopt(sockets []supervise.Socket) error {
	all := make([]gateway.Inherited, len(sockets))
	for i, in := range sockets {
		all[i] = inherited(in)
		if mode := worldWritable(in); mode != "" {
			s.log.Warn().Str("socket", in.Path).Str("hint", "SocketMode=0660 in the .socket unit").
				Msg("mode " + mode + " lets every user of this host name any client")
		}
	}
	spare, err := s.config.Adopt(all)
	if err != nil {
		return err
	}
	s.spare = spare
	for _, left := range spare {
		line, hint := s.log.Info(), ""
		if left.Held {
			line, hint = s.log.Warn(), "--forward "+left.Name+"=BACKEND, or take it out of the .socket unit"
		}
		line.Str("socket", left.Name).Str("hint", hint).Msg("a socket was handed over that no forward takes")
		unix.Close(left.FD)
	}
	return nil
}

func inherited(in supervise.Socket) gateway.Inherited {
	name := in.Name
	if in.Activated {
		name = engine.ActivationName(name)
	}
	return gateway.Inherited{
		Socket: engine.Socket{Name: name, FD: in.FD, Bound: engine.Endpoint{Addr: in.Addr, Path: in.Path}, Held: in.Held},
		Fault:  in.Fault,
		Mend:   in.Mend,
	}
}

// worldWritable returns the mode of a unix socket of systemd's to which
// everybody may connect, or "".
func worldWritable(in supervise.Socket) string {
	if !in.Activated || in.Path == "" {
		return ""
	}
	info, err := os.Stat(in.Path)
	if err != nil || info.Mode().Perm()&0o002 == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", info.Mode().Perm())
}

// removeSpare removes the files of unix sockets that the process before served
// and that are nobody's now.
func (s *server) removeSpare() {
	for _, left := range s.spare {
		if left.Bound.IsUnix() && !left.Held {
			os.Remove(left.Bound.Path) // best effort, as everywhere with these
		}
	}
}

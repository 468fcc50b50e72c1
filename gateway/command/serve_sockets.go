package command

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"unproxy/gateway"
	"unproxy/gateway/engine"
	"unproxy/gateway/supervise"
)

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
	spare, err := gateway.Adopt(s.config, all)
	if err != nil {
		return err
	}
	s.spare = spare
	return nil
}

// takeSpare takes what was handed over by that name for something else than a
// listener of the gateway's.
func (s *server) takeSpare(name string) (gateway.Inherited, bool) {
	i := slices.IndexFunc(s.spare, func(in gateway.Inherited) bool { return in.Name == name })
	if i < 0 {
		return gateway.Inherited{}, false
	}
	in := s.spare[i]
	s.spare = slices.Delete(s.spare, i, i+1)
	return in, true
}

// closeSpare closes what was handed over and nobody took.
func (s *server) closeSpare() {
	for _, left := range s.spare {
		line, hint := s.log.Info(), ""
		if left.Held {
			line, hint = s.log.Warn(), "--forward "+left.Name+"=BACKEND, or take it out of the .socket unit"
		}
		line.Str("socket", left.Name).Str("hint", hint).Msg("a socket was handed over that no forward takes")
		unix.Close(left.FD)
	}
}

func inherited(in supervise.Socket) gateway.Inherited {
	name := in.Name
	if in.Activated {
		name = engine.ActivationName(name)
	}
	return gateway.Inherited{
		Socket: engine.Socket{Name: name, FD: in.FD, Bound: engine.Endpoint{Addr: in.Addr, Path: in.Path}, Held: in.Held},
		Fault:  in.Fault,
		Hint:   in.Mend,
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

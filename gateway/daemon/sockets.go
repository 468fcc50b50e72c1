package daemon

import (
	"fmt"
	"os"
	"slices"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"unproxy/gateway"
	"unproxy/gateway/supervise"
)

// adopt assigns the inherited sockets to the listeners, and keeps the rest.
func (d *daemon) adopt(sockets []supervise.Socket) error {
	for _, s := range sockets {
		if mode := worldWritable(s); mode != "" {
			d.log.Warn().Str("socket", s.Path).Str("hint", "SocketMode=0660 in the .socket unit").
				Msg("mode " + mode + " lets every user of this host name any client")
		}
	}
	spare, err := gateway.Adopt(d.config.Gateway, sockets)
	d.spare = spare
	return err
}

// activated counts the sockets that systemd handed over, to this process or to one
// before it.
func activated(sockets []supervise.Socket) (n int) {
	for _, s := range sockets {
		if s.Held {
			n++
		}
	}
	return n
}

// worldWritable returns the mode of systemd's unix socket if every user may connect
// to it, else "".
func worldWritable(s supervise.Socket) string {
	if !s.Held || s.Path == "" {
		return ""
	}
	info, err := os.Stat(s.Path)
	if err != nil || info.Mode().Perm()&0o002 == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", info.Mode().Perm())
}

// spareSockets are inherited sockets that no listener takes.
type spareSockets []supervise.Socket

// take removes the first socket of that name and returns it. The caller owns its
// descriptor.
func (all *spareSockets) take(name string) (supervise.Socket, bool) {
	i := slices.IndexFunc(*all, func(s supervise.Socket) bool { return s.Name == name })
	if i < 0 {
		return supervise.Socket{}, false
	}
	s := (*all)[i]
	*all = slices.Delete(*all, i, i+1)
	return s, true
}

// mostSpare is how many spare sockets have a line in the log.
const mostSpare = 20

// close closes the sockets. It logs the first ones and the number of the others.
func (all spareSockets) close(log *zerolog.Logger) {
	for i, s := range all {
		if i < mostSpare {
			logSpare(log, s)
		}
		unix.Close(s.FD)
	}
	if n := len(all) - mostSpare; n > 0 {
		log.Warn().Int("count", n).Msg("more sockets were handed over that no forward takes")
	}
}

func logSpare(log *zerolog.Logger, s supervise.Socket) {
	line, hint := log.Info(), ""
	if s.Held {
		line, hint = log.Warn(), "--forward "+s.Name+"=BACKEND, or take it out of the .socket unit"
	}
	withHint(line.Str("socket", s.Name), hint).Msg("a socket was handed over that no forward takes")
}

// removeFiles removes the files of unix sockets that only the process before this
// one served. Systemd's stay.
func (all spareSockets) removeFiles() {
	for _, s := range all {
		if s.Path != "" && !s.Held {
			os.Remove(s.Path) // the file may be gone; a new listener replaces a stale one
		}
	}
}

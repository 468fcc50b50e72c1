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

// activated counts the sockets that systemd passed to this process or to an earlier
// one.
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

// spareSockets are inherited sockets that no listener uses.
type spareSockets []supervise.Socket

// take removes and returns the first socket with a name. The caller owns its
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

// mostSpare is the number of spare sockets that are logged.
const mostSpare = 20

// close closes the sockets. It logs the first mostSpare and the number of the others.
func (all spareSockets) close(log *zerolog.Logger) {
	for i, s := range all {
		if i < mostSpare {
			logSpare(log, s)
		}
		unix.Close(s.FD)
	}
	if n := len(all) - mostSpare; n > 0 {
		log.Warn().Int("count", n).Msg("more inherited sockets not used by any forward")
	}
}

func logSpare(log *zerolog.Logger, s supervise.Socket) {
	line, hint := log.Info(), ""
	if s.Held {
		line, hint = log.Warn(), "--forward "+s.Name+"=BACKEND, or remove it from the .socket unit"
	}
	withHint(line.Str("socket", s.Name), hint).Msg("inherited socket not used by any forward")
}

// removeFiles removes the files of unix sockets that only the previous process
// served. It leaves those of systemd.
func (all spareSockets) removeFiles() {
	for _, s := range all {
		if s.Path != "" && !s.Held {
			os.Remove(s.Path) // an error is harmless: a new listener replaces a stale file
		}
	}
}

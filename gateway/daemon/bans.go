package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/ban"
	"unproxy/gateway/supervise"
)

// An upgrade hands the bans over twice. The new process inherits a file with them, so that
// it never serves without. When it is ready, messages follow with those of that moment, and
// this process refuses changes from then on: nothing that was confirmed is lost.
//
// A message begins with bansMessage, the version of this format, and more or last; a part
// of the text of the list follows. The answer to each is what the message begins with. A
// process that does not know the messages answers something else, as it does to the
// messages of another version of package datagram.
const (
	bansMessage  = 'B' // differs from the versions of package datagram
	bansVersion  = 1
	bansMore     = 'm'
	bansLast     = 'l'
	mostBanBytes = 32 << 10 // in one message
)

// bansName is the name of the inherited file.
const bansName = "bans"

// adoptBans takes the bans of the previous process over, if it handed any over. A list that
// cannot be read is one of another version: the file's bans stay in force.
func (d *daemon) adoptBans() {
	s, ok := d.spare.take(bansName)
	if !ok {
		return
	}
	f := os.NewFile(uintptr(s.FD), bansName)
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30)) // the offset is at the end
	if err == nil {
		err = d.replaceBans(text)
	}
	if err != nil {
		d.log.Warn().Str("error", oneLine(err)).Msg("bans of the previous process not taken over")
	}
}

func (d *daemon) replaceBans(text []byte) error {
	all, err := ban.Parse(text)
	if err != nil {
		return err
	}
	return d.config.Gateway.Bans.Replace(all)
}

// bansFile returns a file with the bans for the process that takes over. The caller owns
// its descriptor.
func (d *daemon) bansFile() (supervise.Socket, error) {
	fd, err := unix.MemfdCreate("unproxy bans", unix.MFD_CLOEXEC)
	if err != nil {
		return supervise.Socket{}, fmt.Errorf("hand over the bans: %w", os.NewSyscallError("memfd_create", err))
	}
	for text := ban.Format(d.config.Gateway.Bans.All()); len(text) > 0; {
		n, err := unix.Write(fd, text)
		if err != nil {
			unix.Close(fd)
			return supervise.Socket{}, fmt.Errorf("hand over the bans: %w", os.NewSyscallError("write", err))
		}
		text = text[n:]
	}
	return supervise.Socket{Name: bansName, FD: fd}, nil
}

// handBans freezes the bans and passes them to the child. The caller thaws them if the
// upgrade fails.
func (d *daemon) handBans(child *supervise.Child, until time.Time) error {
	text := ban.Format(d.config.Gateway.Bans.Freeze())
	for len(text) > 0 {
		part := text[:min(len(text), mostBanBytes)]
		text = text[len(part):]
		head := []byte{bansMessage, bansVersion, bansMore}
		if len(text) == 0 {
			head[2] = bansLast
		}
		answer, err := child.Exchange(append(head, part...), nil, until)
		if err != nil {
			return fmt.Errorf("hand over the bans: %w", err)
		}
		if string(answer) != string(head) {
			d.log.Warn().Msg("bans not handed over: the new process does not take them")
			return nil
		}
	}
	return nil
}

// takeMessage answers a message of the previous process.
func (d *daemon) takeMessage(message []byte, fds []int) (answer []byte) {
	if len(message) < 3 || message[0] != bansMessage {
		return d.gateway.TakeFlows(message, fds)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err := d.takeBans(message); err != nil {
		d.log.Warn().Str("error", oneLine(err)).Msg("bans of the previous process not taken over")
		return []byte{bansMessage}
	}
	return message[:3]
}

// takeBans takes a part of the bans. The messages come from one goroutine.
func (d *daemon) takeBans(message []byte) error {
	if message[1] != bansVersion {
		return errors.New("they are in a format of another version")
	}
	d.takenBans = append(d.takenBans, message[3:]...)
	if message[2] != bansLast {
		return nil
	}
	text := d.takenBans
	d.takenBans = nil
	return d.replaceBans(text)
}

package attach

import (
	"fmt"
	"net"
	"os"
)

// Trial is what [Try] has found.
type Trial struct {
	Others []Other // programs of others at the same hooks
	// MarkErr says why listeners that exist already cannot be covered; nil if they can.
	MarkErr error
}

// Try loads the programs of a role and attaches them to a cgroup for a moment, with empty
// lists, so that they do nothing. It only loads them if the role's programs are attached
// already. The error says what [AttachServer] or [AttachGateway] would fail with.
func Try(path string, r Role) (Trial, error) {
	var t Trial
	if err := refuseRoot(path, r); err != nil {
		return t, err
	}
	err := withAttached(path, r, func(dir *os.File, a *attached) error {
		t.Others = a.others
		c, err := load(r, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		if a.count() > 0 {
			return nil
		}
		if err := a.attachAll(dir, c); err != nil {
			return err
		}
		a.undo(dir, c, len(r.hooks()))
		return nil
	})
	if err == nil && r == Server {
		t.MarkErr = tryMarking()
	}
	return t, err
}

// tryMarking marks a listener of its own.
func tryMarking() error {
	path, err := Resolve(Self)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	marked := changeListeners(path, []uint16{l.Addr().(*net.TCPAddr).AddrPort().Port()}, mark)
	if marked.Err == nil && marked.Covered == 0 {
		return fmt.Errorf("mark a listener of %s: it was not found", path)
	}
	return marked.Err
}

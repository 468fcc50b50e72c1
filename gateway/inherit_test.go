package gateway

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// handed is an inherited socket with a name, bound to an address or a path.
func handed(name string, fd int, bound string) supervise.Socket {
	s := supervise.Socket{Name: name, FD: fd}
	if a, err := netip.ParseAddrPort(bound); err == nil {
		s.Addr = a
	} else {
		s.Path = bound
	}
	return s
}

func faulty(name, fault string) supervise.Socket {
	return supervise.Socket{Name: name, Fault: fault, Hint: "Accept=no"}
}

func TestAdopt(t *testing.T) {
	rows := []struct {
		name     string
		forwards []string
		sockets  []supervise.Socket
		fds      []int    // of each listener, 0: opens its own
		left     []string // names
		fails    string
		hint     string
	}{
		{name: "nothing to adopt", forwards: []string{":1=127.0.0.1:9"}, fds: []int{0}},
		{name: "systemd's", forwards: []string{"systemd:web=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("systemd:web", 3, "0.0.0.0:80")}, fds: []int{3}},
		{name: "several of one name make several listeners", forwards: []string{"systemd:web=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("systemd:web", 3, "0.0.0.0:80"), handed("systemd:web", 4, "/run/web")}, fds: []int{3, 4}},
		{name: "by name, not by place", forwards: []string{"systemd:b=127.0.0.1:9", ":1=127.0.0.1:9", "systemd:a=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("systemd:a", 3, "0.0.0.0:80"), handed("systemd:b", 4, "0.0.0.0:81")}, fds: []int{4, 0, 3}},
		{name: "one is not taken", forwards: []string{"systemd:a=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("systemd:a", 3, "0.0.0.0:80"), handed("systemd:b", 4, "0.0.0.0:81")}, fds: []int{3}, left: []string{"systemd:b"}},
		{name: "an address is no name", forwards: []string{"0.0.0.0:80=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("systemd:a", 3, "0.0.0.0:80")}, fds: []int{0}, left: []string{"systemd:a"}},
		{name: "those of the process before", forwards: []string{":1=127.0.0.1:9", "127.0.0.1:0=127.0.0.1:9", "127.0.0.1:0=127.0.0.1:8", "unix:/s=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("127.0.0.1:0", 4, "127.0.0.1:4711"), handed("dual-stack [::]:1", 5, "[::]:1"), handed("127.0.0.1:0", 6, "127.0.0.1:4712"), handed("unix:/s", 7, "/s")},
			fds:     []int{5, 4, 6, 7}},
		{name: "a forward that is new, and one that is gone", forwards: []string{":2=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("dual-stack [::]:1", 4, "[::]:1")}, fds: []int{0}, left: []string{"dual-stack [::]:1"}},
		{name: "one family is not both", forwards: []string{"[::]:1=127.0.0.1:9", "0.0.0.0:1=127.0.0.1:9"},
			sockets: []supervise.Socket{handed("dual-stack [::]:1", 4, "[::]:1")}, fds: []int{0, 0}, left: []string{"dual-stack [::]:1"}},
		{name: "not started by a socket unit", forwards: []string{"systemd:web=127.0.0.1:9"},
			fails: "hands over no socket of that name", hint: "FileDescriptorName=web"},
		{name: "another name", forwards: []string{"systemd:web=127.0.0.1:9"}, sockets: []supervise.Socket{handed("systemd:www", 3, "0.0.0.0:80")},
			fails: "listener systemd:web: systemd hands over no socket", hint: "hands over www: write systemd:www"},
		// systemd.socket(5): the name is that of the unit unless it is set.
		{name: "no name was set", forwards: []string{"systemd:web=127.0.0.1:9"}, sockets: []supervise.Socket{handed("systemd:unproxy.socket", 3, "0.0.0.0:80")},
			fails: "hands over no socket", hint: "write FileDescriptorName=web in the .socket unit"},
		{name: "the wrong type", forwards: []string{"systemd:web=127.0.0.1:9"}, sockets: []supervise.Socket{faulty("systemd:web", "is a connection and not a listener")},
			fails: `the socket "web" that systemd hands over is a connection and not a listener`, hint: "Accept=no"},
		{name: "an abstract name", forwards: []string{"systemd:web=127.0.0.1:9"}, sockets: []supervise.Socket{handed("systemd:web", 3, "@web")},
			fails: "is in the abstract namespace", hint: "ListenStream=/run/unproxy/NAME.sock"},
		{name: "of the wrong type, but not wanted", forwards: []string{":1=127.0.0.1:9"}, sockets: []supervise.Socket{faulty("systemd:web", "is not a socket")},
			fds: []int{0}, left: []string{"systemd:web"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c, _, err := load(row.forwards)
			if err != nil {
				t.Fatal(err)
			}
			left, err := Adopt(c, row.sockets)
			if row.fails != "" {
				var p *config.Problem
				if !errors.As(err, &p) || !strings.Contains(p.Error(), row.fails) || !strings.Contains(p.Hint(), row.hint) {
					t.Errorf("the problem is %v (%+v), want %q with %q", err, p, row.fails, row.hint)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			adopted(t, c, row.fds)
			for i, s := range left {
				if i >= len(row.left) || s.Name != row.left[i] {
					t.Errorf("left is %q, want %q", s.Name, row.left)
				}
			}
			if len(left) != len(row.left) {
				t.Errorf("%d sockets are left, want %q", len(left), row.left)
			}
			if _, err := c.Validate(); err != nil {
				t.Errorf("what came of it is not valid: %v", err)
			}
		})
	}
}

// adopted checks which socket each listener has.
func adopted(t *testing.T, c *config.Config, fds []int) {
	t.Helper()
	var all []forward.Listener
	for _, f := range c.Forwards {
		all = append(all, f.Listeners...)
	}
	if len(all) != len(fds) {
		t.Fatalf("%d listeners, want %d", len(all), len(fds))
	}
	for i, l := range all {
		switch {
		case l.Socket == nil && fds[i] != 0 || l.Socket != nil && l.Socket.FD != fds[i]:
			t.Errorf("listener %s has the socket %+v, want descriptor %d", l.Name, l.Socket, fds[i])
		case l.Activation != "" && l.Endpoint != l.Socket.Bound:
			t.Errorf("listener %s is at %v, its socket at %v", l.Name, l.Endpoint, l.Socket.Bound)
		case len(l.Backends) != 1:
			t.Errorf("listener %s leads to %v", l.Name, l.Backends)
		}
	}
}

// Without a trust rule only a unix socket is served. What systemd hands over is known
// only when it is adopted.
func TestActivationWithoutTrust(t *testing.T) {
	src := config.Source{Forwards: []string{"systemd:web=127.0.0.1:9"}}
	for _, row := range []struct {
		bound string
		fails bool
	}{{"/run/web", false}, {"0.0.0.0:80", true}} {
		c, warnings, err := config.Load(src)
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Message, "only a unix socket can be served") {
			t.Fatalf("%v, %v", warnings, err)
		}
		if _, err := Adopt(c, []supervise.Socket{handed("systemd:web", 3, row.bound)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Validate(); (err != nil) != row.fails {
			t.Errorf("bound to %s without a trust rule: %v", row.bound, err)
		}
	}
}

// Two forwards cannot have one of systemd's sockets.
func TestActivationTwice(t *testing.T) {
	_, _, err := load([]string{"systemd:web=127.0.0.1:9", "systemd:web=127.0.0.1:8"})
	if err == nil || !strings.Contains(err.Error(), "two forwards have the same listener") {
		t.Errorf("twice the same: %v", err)
	}
}

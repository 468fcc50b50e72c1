package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/admin"
	"unproxy/gateway/doctor"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// endpoint is the admin endpoint or the health endpoint. An upgrade hands it over with
// the listeners: requests reach the process that serves, and the address is never bound
// twice.
type endpoint struct {
	kind   admin.Kind
	name   string // of its socket when it is handed over
	gate   *gate
	server *admin.Server
}

// startEndpoints opens the endpoints that are configured.
func (d *daemon) startEndpoints() error {
	for kind, at := range d.config.Admin.Endpoints() {
		if err := d.startEndpoint(kind, at); err != nil {
			return err
		}
	}
	return nil
}

// startEndpoint opens an endpoint.
func (d *daemon) startEndpoint(kind admin.Kind, at admin.Address) error {
	g, err := d.openGate(kind, at)
	if err != nil {
		return err
	}
	if err := d.sharePort(kind, g); err != nil {
		return err
	}
	c := d.adminConfig()
	c.Kind = kind
	e := &endpoint{kind: kind, name: socketName(kind, at), gate: g, server: admin.Serve(g, c)}
	go d.logFailure(e)
	message := "admin endpoint"
	if kind == admin.Probes {
		message = "health endpoint"
	}
	d.log.Info().Str("address", admin.AddressOf(g).String()).Msg(message)
	d.endpoints.open = append(d.endpoints.open, e)
	return nil
}

// logFailure waits until an endpoint ends, and logs why if it failed.
func (d *daemon) logFailure(e *endpoint) {
	err := <-e.server.Failed()
	if err == nil {
		return
	}
	message := "the admin endpoint failed; connections go on"
	if e.kind == admin.Probes {
		message = "the health endpoint failed; connections go on"
	}
	d.log.Error().Str("error", oneLine(err)).Msg(message)
}

// adminConfig is what the admin endpoint shows and what it can do.
func (d *daemon) adminConfig() admin.Config {
	return admin.Config{
		Version:    d.config.Version,
		Gateway:    d.config.Gateway,
		Readiness:  &d.readiness,
		Instance:   d.access.Instance(),
		Refusals:   d.refusals,
		LogDropped: d.access.Dropped,
		ErrorLog:   stdlog.New(d.access.Standard(), "", 0),
		Profiles:   d.config.Admin.Profiles,
		Findings:   findingsJSON(d.findings),
		Examine:    d.findings.Refresh,
		Sandbox:    d.sandboxReport,
		Drain: func() {
			select {
			case d.stopRequests <- "POST /-/drain":
			default: // a request is already pending
			}
		},
		Reload: func(ctx context.Context) error {
			select {
			case <-d.opened:
				return d.reload("POST /-/reload")
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

// openGate opens an endpoint's listener, on the socket of the process before this one
// if there is one.
func (d *daemon) openGate(kind admin.Kind, at admin.Address) (*gate, error) {
	in, inherited := d.spare.take(socketName(kind, at))
	if !inherited {
		l, err := admin.Listen(kind, at)
		if err != nil {
			return nil, explainInUse(doctor.This(), err)
		}
		return newGate(l.(listener), nil), nil
	}
	f := os.NewFile(uintptr(in.FD), in.Name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the %s on %s: %w", kind, at, err)
	}
	return newGate(l.(listener), d.inCharge), nil
}

// sharePort makes the port of an endpoint on a wildcard address available to
// connections to backends, if a forward connects from the clients' ports. See
// [unproxy/transparent.SharePort].
func (d *daemon) sharePort(kind admin.Kind, g *gate) error {
	uses := func(f *forward.Forward) bool { return !f.Datagrams && f.UsesClientPort() }
	at := admin.AddressOf(g).TCP
	if !at.Addr().IsUnspecified() || !slices.ContainsFunc(d.config.Gateway.Forwards, uses) {
		return nil
	}
	raw, err := g.SyscallConn()
	if err != nil {
		return fmt.Errorf("share the port of the %s: %w", kind, err)
	}
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		optionErr = os.NewSyscallError("setsockopt SO_REUSEPORT",
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	return errors.Join(err, optionErr)
}

// socketName is the name of an endpoint's socket when it is handed over: "admin
// 127.0.0.1:9180".
func socketName(kind admin.Kind, at admin.Address) string {
	return strings.TrimPrefix(kind.Flag(), "--") + " " + at.String()
}

// endpoints are the open endpoints. The list is complete before anything else uses it.
type endpoints struct {
	open   []*endpoint
	closed sync.Once
}

// listeners returns the TCP sockets on which the endpoints listen.
func (all *endpoints) listeners() (own []forward.OwnListener) {
	for _, e := range all.open {
		if at := admin.AddressOf(e.gate).TCP; at.IsValid() {
			own = append(own, forward.OwnListener{Addr: at, DualStack: true}) // as package net opens wildcards
		}
	}
	return own
}

// attach shows the gateway on the endpoints.
func (all *endpoints) attach(g admin.Gateway) {
	for _, e := range all.open {
		e.server.Attach(g)
	}
}

// own makes this process remove the files of the endpoints' unix sockets when it
// closes.
func (all *endpoints) own() {
	for _, e := range all.open {
		e.gate.own(true)
	}
}

// copySockets returns copies of the endpoints' sockets. The caller owns their
// descriptors, with an error too.
func (all *endpoints) copySockets() (copies []supervise.Socket, err error) {
	for _, e := range all.open {
		fd, err := e.gate.duplicate()
		if err != nil {
			return copies, fmt.Errorf("hand over the %s: %w", e.kind, err)
		}
		copies = append(copies, supervise.Socket{Name: e.name, FD: fd})
	}
	return copies, nil
}

// leave leaves the endpoints to the process that takes over. Requests that this
// process has accepted are answered first: net/http drops those that it still
// reads when it shuts down.
func (all *endpoints) leave() { all.each(func(e *endpoint) { e.gate.leave() }) }

// close stops answering and closes the listeners.
func (all *endpoints) close() {
	all.closed.Do(func() { all.each(func(e *endpoint) { e.server.Close() }) })
}

// each calls do for all endpoints at once, and waits.
func (all *endpoints) each(do func(*endpoint)) {
	var doing sync.WaitGroup
	for _, e := range all.open {
		doing.Go(func() { do(e) })
	}
	doing.Wait()
}

// findingsJSON returns a function that encodes the findings of a cache.
func findingsJSON(e *doctor.Cache) func() (json.RawMessage, time.Time) {
	return func() (json.RawMessage, time.Time) {
		findings, examined := e.Findings()
		if findings == nil {
			return nil, examined
		}
		list, err := json.Marshal(findings)
		if err != nil {
			return nil, examined // unreachable: findings hold only strings
		}
		return list, examined
	}
}

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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/admin"
	"unproxy/gateway/doctor"
	"unproxy/gateway/forward"
	"unproxy/gateway/supervise"
)

// endpoint is the admin endpoint. An upgrade hands its socket over with the
// listeners, so that requests always reach the serving process and the address need
// not be bound again. The methods of a nil endpoint do nothing.
type endpoint struct {
	name   string // of its socket, for an upgrade
	gate   *gate
	server *admin.Server
	closed sync.Once
}

// startAdmin opens the admin endpoint, if one is configured.
func (d *daemon) startAdmin() error {
	if d.config.Admin.Address.IsZero() {
		return nil
	}
	g, err := d.openGate()
	if err != nil {
		return err
	}
	if err := d.sharePort(g); err != nil {
		return err
	}
	e := &endpoint{name: adminSocketName(d.config.Admin.Address), gate: g, server: admin.Serve(g, d.adminConfig())}
	go func() {
		if err := <-e.server.Failed(); err != nil {
			d.log.Error().Str("error", oneLine(err)).Msg("admin endpoint failed; connections continue")
		}
	}()
	d.log.Info().Str("address", admin.AddressOf(g).String()).Msg("admin endpoint")
	d.admin = e
	return nil
}

// adminConfig returns the configuration of the endpoint's server.
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

// openGate opens the endpoint's listener, on the socket inherited from the previous
// process if there is one.
func (d *daemon) openGate() (*gate, error) {
	at := d.config.Admin.Address
	in, inherited := d.spare.take(adminSocketName(at))
	if !inherited {
		l, err := admin.Listen(at)
		if err != nil {
			return nil, explainInUse(doctor.This(), err)
		}
		return newGate(l.(listener), nil), nil
	}
	f := os.NewFile(uintptr(in.FD), in.Name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the admin endpoint on %s: %w", at, err)
	}
	return newGate(l.(listener), d.inCharge), nil
}

// sharePort makes the port of an endpoint on a wildcard address available to
// connections to backends, if a forward connects from the clients' ports. See
// [unproxy/transparent.SharePort].
func (d *daemon) sharePort(g *gate) error {
	uses := func(f *forward.Forward) bool { return !f.Datagrams && f.UsesClientPort() }
	at := admin.AddressOf(g).TCP
	if !at.Addr().IsUnspecified() || !slices.ContainsFunc(d.config.Gateway.Forwards, uses) {
		return nil
	}
	raw, err := g.SyscallConn()
	if err != nil {
		return fmt.Errorf("share the port of the admin endpoint: %w", err)
	}
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		optionErr = os.NewSyscallError("setsockopt SO_REUSEPORT",
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	return errors.Join(err, optionErr)
}

// adminSocketName returns the name of the endpoint's socket for an upgrade.
func adminSocketName(at admin.Address) string { return "admin " + at.String() }

// listeners returns the TCP socket on which the endpoint listens, if there is one.
func (e *endpoint) listeners() []forward.OwnListener {
	if e == nil {
		return nil
	}
	at := admin.AddressOf(e.gate).TCP
	if !at.IsValid() {
		return nil
	}
	return []forward.OwnListener{{Addr: at, DualStack: true}} // package net opens wildcards dual-stack
}

// attach shows the gateway on the endpoint.
func (e *endpoint) attach(g admin.Gateway) {
	if e != nil {
		e.server.Attach(g)
	}
}

// own makes close remove the file of the endpoint's unix socket.
func (e *endpoint) own() {
	if e != nil {
		e.gate.own(true)
	}
}

// copySocket returns a copy of the endpoint's socket; none for nil.
func (e *endpoint) copySocket() ([]supervise.Socket, error) {
	if e == nil {
		return nil, nil
	}
	fd, err := e.gate.duplicate()
	if err != nil {
		return nil, fmt.Errorf("hand over the admin endpoint: %w", err)
	}
	return []supervise.Socket{{Name: e.name, FD: fd}}, nil
}

// leave leaves the endpoint to the process that takes over. It first waits for
// requests on accepted connections: net/http drops requests that it has not read
// completely at shutdown.
func (e *endpoint) leave() {
	if e != nil {
		e.gate.leave()
	}
}

// close stops answering and closes the listener.
func (e *endpoint) close() {
	if e != nil {
		e.closed.Do(e.server.Close)
	}
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

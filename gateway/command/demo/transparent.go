package demo

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config"
	"unproxy/gateway/proxyproto"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// playTransparent runs the second part, in its own network namespace.
func playTransparent(out *screen) error {
	t, err := newTransparentStage()
	if err != nil {
		if !forbidden(err) {
			return err
		}
		return errors.Join(usage.Reported(cannotShow), err) // the parent reports why
	}
	defer t.close()
	out.print("\n2. Transparent mode: the backend sees the client's address\n\n")
	const margin = "\n               "
	out.print("  gateway      unproxy --forward %s=%s \\%s  --trust 127.0.0.1/32 --transparent\n",
		t.on.at, t.backends(), margin)
	out.print("  return path  %s\n\n", strings.Join(t.routes.Commands(), margin))
	out.heading()
	failed := 0
	for _, part := range t.parts {
		n, err := playAll(out, t.on, part.server, part.scenes)
		if err != nil {
			return err
		}
		failed += n
	}
	n, err := t.playLost(out)
	if err != nil {
		return err
	}
	failed += n
	all := t.scenes() + 1
	out.print("\n  %d of %d as expected.%s\n", all-failed, all, t.without)
	return failure(failed, all)
}

// transparentStage is the gateway and the backends of the second part.
type transparentStage struct {
	on      *stage
	routes  returnpath.Plan
	parts   []transparentPart
	without string // the features that this host does not support
}

// transparentPart is a backend of one address family and its scenes.
type transparentPart struct {
	server *backend
	scenes []scene
}

// newTransparentStage prepares the namespace: loopback, a backend for each
// address family, and the return path for their replies.
func newTransparentStage() (t *transparentStage, err error) {
	if err := routing.LoopbackUp(); err != nil {
		return nil, err
	}
	t = &transparentStage{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	for _, host := range []string{"127.0.0.1", "::1"} {
		server, err := startBackend(host)
		if err != nil && host == "::1" {
			t.without = " This host has no IPv6."
			break
		}
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, transparentPart{server: server})
	}
	if err := t.writeScenes(); err != nil {
		return nil, err
	}
	located, err := routing.Locate(t.servers())
	if err != nil {
		return nil, err
	}
	t.routes = returnpath.New(located, nil, returnpath.Options{})
	if err := routing.Apply(context.Background(), t.routes, func(string) {}); err != nil {
		return nil, err
	}
	t.on, err = startStage("127.0.0.1:0="+t.backends(), config.Values{
		"trust": {"127.0.0.1/32"}, "transparent": {"on"}, "connect-timeout": {"1s"},
	})
	return t, err
}

// writeScenes sets the scenes of each part.
func (t *transparentStage) writeScenes() error {
	v1 := proxyproto.AppendV1(nil, client4, destination4)
	v2, err := headerV2(client6, destination6)
	if err != nil {
		return err
	}
	spoof := proxyproto.AppendV1(nil, netip.MustParseAddrPort("127.0.0.1:40003"), destination4)
	itself := func(client netip.AddrPort) expectation {
		return expectation{seen: client.String(), payload: hello, logged: [][2]string{
			{"outcome", "ok"}, {"client", client.String()}, {"transparent", "true"}}}
	}
	t.parts[0].scenes = []scene{
		{what: "v1 header, IPv4 client", parts: then(v1, hello), want: itself(client4)},
		{what: "a header that names 127.0.0.1, to pose as this host", parts: then(spoof, hello),
			want: expectation{logged: [][2]string{{"outcome", "source_denied"}}}},
	}
	if len(t.parts) > 1 {
		t.parts[1].scenes = []scene{{what: "v2 header, IPv6 client", parts: then(v2, hello), want: itself(client6)}}
	}
	return nil
}

// playLost removes the return path and shows the effect on a client.
func (t *transparentStage) playLost(out *screen) (int, error) {
	if err := routing.Remove(context.Background(), t.routes, func(string) {}); err != nil {
		return 0, err
	}
	client := netip.AddrPortFrom(client4.Addr(), client4.Port()+10) // the port of the first scene may still be in use
	lost := scene{
		what:  "return path removed: replies are lost; the gateway finds out and logs why",
		parts: then(proxyproto.AppendV1(nil, client, destination4), hello),
		want:  expectation{logged: [][2]string{{"outcome", "no_return_path"}}},

		tested: true,
	}
	return playAll(out, t.on, t.parts[0].server, []scene{lost})
}

// addresses returns where the backends listen.
func (t *transparentStage) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range t.parts {
		all = append(all, p.server.address())
	}
	return all
}

// servers returns the addresses in the form that a plan of routes takes.
func (t *transparentStage) servers() []returnpath.Backend {
	var all []returnpath.Backend
	for _, a := range t.addresses() {
		all = append(all, returnpath.Server(a, false))
	}
	return all
}

// backends returns the addresses in the form that a forward takes.
func (t *transparentStage) backends() string {
	var all []string
	for _, a := range t.addresses() {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// scenes returns the number of scenes.
func (t *transparentStage) scenes() int {
	n := 0
	for _, p := range t.parts {
		n += len(p.scenes)
	}
	return n
}

// close stops the gateway and the backends. The routes go with the namespace.
func (t *transparentStage) close() {
	if t.on != nil {
		t.on.close()
	}
	for _, p := range t.parts {
		p.server.listener.Close()
	}
}

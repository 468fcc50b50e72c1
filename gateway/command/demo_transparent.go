package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"unproxy/gateway"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
	"unproxy/transparent/returnpath"
	"unproxy/transparent/routing"
)

// cannotShow is the exit code of the second part where the host does not let
// it be played; it has said why on stderr then.
const cannotShow = 3

// enterNamespace plays the second part in a process with a network namespace
// of its own, so that nothing on the host is touched. A user namespace gives
// it the right to one; where there are none, root has it anyway.
func enterNamespace(ctx *cli.Context) error {
	err := inNamespace(ctx, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		if os.Geteuid() == 0 {
			err = inNamespace(ctx, syscall.CLONE_NEWNET)
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == usage.ExitFailure:
		return usage.Reported(usage.ExitFailure)
	case errors.As(err, &exit):
		return fmt.Errorf("the second part of the demo: %w", err)
	}
	var missing *unavailable
	if errors.As(err, &missing) {
		return err
	}
	return &unavailable{
		fmt.Errorf("make a network namespace: %w", err),
		"run it as root, or allow user namespaces: sysctl user.max_user_namespaces,\n        kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
	}
}

// inNamespace runs the second part with namespaces of its own.
func inNamespace(ctx *cli.Context, flags uintptr) error {
	var reason strings.Builder
	here, err := networkNamespace()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the signal is for the death of the thread that starts it
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "demo", "--"+insideFlag, here)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = ctx.App.Writer, &reason
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == cannotShow {
		return &unavailable{errors.New(strings.TrimPrefix(strings.TrimSpace(reason.String()), "unproxy: error: ")), "run it on a host or in a container that lets it: it needs CAP_NET_ADMIN there"}
	}
	fmt.Fprint(ctx.App.ErrWriter, reason.String())
	return err
}

// networkNamespace names the network namespace that this process is in.
func networkNamespace() (string, error) { return os.Readlink("/proc/self/ns/net") }

// playInside plays the second part, unless this process is still in the
// namespace outside.
func playInside(out *screen, outside string) error {
	here, err := networkNamespace()
	if err != nil {
		return err
	}
	if here == outside || !strings.HasPrefix(outside, "net:[") {
		return usage.Errorf("%s", "--"+insideFlag+" is for the demo's own use").WithHint("run unproxy demo")
	}
	return playTransparent(out)
}

// playTransparent plays the second part, in a network namespace of its own.
func playTransparent(out *screen) error {
	t, err := newTransparentStage()
	if err != nil {
		if !forbidden(err) {
			return err
		}
		return errors.Join(usage.Reported(cannotShow), err)
	}
	defer t.close()
	out.print("\n2. Transparent mode: the old server sees the client itself\n\n")
	const margin = "\n            "
	out.print("  gateway   unproxy --forward %s=%s \\%s  --trust 127.0.0.1/32 --transparent\n", t.on.at, t.backends(), margin)
	out.print("  way back  %s\n\n", strings.Join(t.way.Commands(), margin))
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
	out.print("\n  %d of %d as they ought to be.%s\n", all-failed, all, t.without)
	return verdictOf(failed, all)
}

// forbidden reports whether the host, and not the gateway, is the reason: no
// right to change the routes of the new namespace, or no such thing there.
func forbidden(err error) bool {
	for _, e := range []error{fs.ErrPermission, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EAFNOSUPPORT, syscall.ENOPROTOOPT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// transparentStage is what the second part is played with.
type transparentStage struct {
	on      *stage
	way     returnpath.Plan
	parts   []transparentPart
	without string // what this host cannot show
}

// transparentPart is an old server of one address family and its scenes.
type transparentPart struct {
	server *oldServer
	scenes []scene
}

// newTransparentStage prepares the namespace: loopback, an old server of each
// family, and the way back for their replies.
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
		server, err := startOldServer(host)
		if err != nil && host == "::1" {
			t.without = " This host has no IPv6."
			break
		}
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, transparentPart{server: server})
	}
	if err := t.write(); err != nil {
		return nil, err
	}
	located, err := routing.Locate(t.servers())
	if err != nil {
		return nil, err
	}
	t.way = returnpath.New(located, nil, returnpath.Options{})
	if err := routing.Apply(context.Background(), t.way, func(string) {}); err != nil {
		return nil, err
	}
	t.on, err = startStage("127.0.0.1:0="+t.backends(), gateway.Values{
		"trust": {"127.0.0.1/32"}, "transparent": {"on"}, "connect-timeout": {"1s"},
	})
	return t, err
}

// write makes up the scenes.
func (t *transparentStage) write() error {
	v1 := proxyproto.AppendV1(nil, client4, destination4)
	v2, err := proxyproto.AppendV2(nil, &proxyproto.Message{Command: proxyproto.CommandProxy, Source: client6, Destination: destination6})
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
		{what: "a header that names 127.0.0.1, to pass for this host itself", parts: then(spoof, hello),
			want: expectation{logged: [][2]string{{"outcome", "source_denied"}}}},
	}
	if len(t.parts) > 1 {
		t.parts[1].scenes = []scene{{what: "v2 header, IPv6 client", parts: then(v2, hello), want: itself(client6)}}
	}
	return nil
}

// playLost takes the way back away and shows what becomes of a client then.
func (t *transparentStage) playLost(out *screen) (int, error) {
	if err := routing.Remove(context.Background(), t.way, func(string) {}); err != nil {
		return 0, err
	}
	client := netip.AddrPortFrom(client4.Addr(), client4.Port()+10) // the first may still be remembered
	lost := scene{
		what:  "the way back is taken away: answers get lost; the gateway asks once as itself, and the log says why",
		parts: then(proxyproto.AppendV1(nil, client, destination4), hello),
		want:  expectation{seen: "127.0.0.1", logged: [][2]string{{"outcome", "no_return_path"}}},
	}
	return playAll(out, t.on, t.parts[0].server, []scene{lost})
}

// addresses returns where the old servers listen.
func (t *transparentStage) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range t.parts {
		all = append(all, p.server.address())
	}
	return all
}

// servers returns the same as a plan of routes takes it.
func (t *transparentStage) servers() []returnpath.Backend {
	var all []returnpath.Backend
	for _, a := range t.addresses() {
		all = append(all, returnpath.Server(a, false))
	}
	return all
}

// backends returns the same as a forward takes it.
func (t *transparentStage) backends() string {
	var all []string
	for _, a := range t.addresses() {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// scenes counts them.
func (t *transparentStage) scenes() int {
	n := 0
	for _, p := range t.parts {
		n += len(p.scenes)
	}
	return n
}

// close ends all of it. The routes go with the namespace.
func (t *transparentStage) close() {
	if t.on != nil {
		t.on.close()
	}
	for _, p := range t.parts {
		p.server.listener.Close()
	}
}

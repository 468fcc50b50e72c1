package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
)

// cannotShow is the exit code of the child process if this host does not permit
// the second part. The child has printed why on stderr.
const cannotShow = 3

// enterNamespace runs the second part in a child process with its own network
// namespace, so that nothing on the host changes. Without root, it also creates a user
// namespace, which grants the necessary capability.
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
		return fmt.Errorf("run the second part: %w", err)
	}
	var missing *unavailable
	if errors.As(err, &missing) {
		return err
	}
	return &unavailable{fmt.Errorf("create a network namespace: %w", err), namespaceHint}
}

const namespaceHint = `run it as root, or permit user namespaces with sysctl: user.max_user_namespaces,
        kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns`

// inNamespace runs the child process in new namespaces.
func inNamespace(ctx *cli.Context, flags uintptr) error {
	var reason strings.Builder
	here, err := networkNamespace()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread that started the child ends
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
		why := strings.TrimPrefix(strings.TrimSpace(reason.String()), "unproxy: error: ")
		return &unavailable{errors.New(why), "run it as root, or where user namespaces grant CAP_NET_ADMIN"}
	}
	fmt.Fprint(ctx.App.ErrWriter, reason.String())
	return err
}

// networkNamespace names the network namespace of this process.
func networkNamespace() (string, error) { return os.Readlink("/proc/self/ns/net") }

// playInside runs the second part. It fails if this process is still in the network
// namespace outside.
func playInside(out *screen, outside string) error {
	here, err := networkNamespace()
	if err != nil {
		return err
	}
	if here == outside || !strings.HasPrefix(outside, "net:[") {
		return usage.Errorf("--%s is for internal use", insideFlag).WithHint("run unproxy demo")
	}
	return playTransparent(out)
}

// forbidden reports whether the host is the reason for an error: no permission to
// change the routes of the new namespace, or no support for them.
func forbidden(err error) bool {
	reasons := []error{
		fs.ErrPermission, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EAFNOSUPPORT, syscall.ENOPROTOOPT,
	}
	return slices.ContainsFunc(reasons, func(reason error) bool { return errors.Is(err, reason) })
}

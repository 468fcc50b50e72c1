package daemon

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"unproxy/gateway/config"
	"unproxy/gateway/forward"
	"unproxy/gateway/sandbox"
)

// confine takes from this process what it does not need any more: the listeners are
// open. It logs what is in force and what an attacker could still use.
func (d *daemon) confine() error {
	policy := sandbox.Policy{
		Mode:         d.config.Gateway.Sandbox,
		User:         d.config.Gateway.User,
		Capabilities: capabilities(d.config.Gateway),
		Files:        d.files(),
	}
	if policy.User != nil {
		d.giveSockets(policy.User)
	}
	report, err := policy.Apply()
	if err != nil {
		return sandboxError{err}
	}
	d.sandbox.Store(&report)
	d.log.Info().Str("mode", report.Mode).Int("uid", report.UID).Int("gid", report.GID).
		Strs("capabilities", report.Capabilities).Bool("no_new_privileges", report.NoNewPrivileges).
		Int("landlock", report.Landlock).Strs("missing", report.Missing).Msg("sandbox")
	d.warnOfUnreadable()
	if path := banFile(d.config.Gateway); path != "" {
		if err := unix.Access(filepath.Dir(path), unix.W_OK); err != nil {
			return banFileError{fmt.Errorf("bans cannot be written to %s as user %d: %w", path, report.UID, err)}
		}
	}
	return nil
}

// giveSockets makes the user the owner of the unix sockets that this process has made, so
// that the mode, which is for the gateway's user, means that one.
func (d *daemon) giveSockets(u *sandbox.User) {
	for _, path := range d.socketFiles() {
		if err := os.Lchown(path, u.UID, u.GID); err != nil && os.Getuid() == 0 {
			d.log.Warn().Str("file", path).Str("error", oneLine(err)).Msg("the socket keeps its owner")
		}
	}
}

// socketFiles returns the paths of the unix sockets of this process, without those that
// systemd made.
func (d *daemon) socketFiles() (paths []string) {
	for _, f := range d.config.Gateway.Forwards {
		for _, l := range f.Listeners {
			held := l.Socket != nil && l.Socket.Held
			if path := l.Endpoint.Path; path != "" && !strings.HasPrefix(path, "@") && !held {
				paths = append(paths, path)
			}
		}
	}
	for _, at := range d.config.Admin.Endpoints() {
		if at.HasFile() {
			paths = append(paths, at.Path)
		}
	}
	return paths
}

// banFileError is the error of a ban file whose directory is not writable.
type banFileError struct{ error }

// Unwrap returns the error of the system call.
func (e banFileError) Unwrap() error { return e.error }

// Hint returns how to make it writable.
func (e banFileError) Hint() string {
	return "make its directory writable for the gateway's user: with --user for that one, else for root itself, " +
		"which has no capabilities in the sandbox"
}

// sandboxReport returns what is in force; before that, that nothing is.
func (d *daemon) sandboxReport() *sandbox.Report {
	if r := d.sandbox.Load(); r != nil {
		return r
	}
	return &sandbox.Report{Mode: sandbox.Off.String()}
}

// sandboxError is the error of a sandbox that cannot be applied.
type sandboxError struct{ error }

// Error returns what could not be applied, and why.
func (e sandboxError) Error() string { return "sandbox: " + oneLine(e.error) }

// Unwrap returns the errors of the system calls.
func (e sandboxError) Unwrap() error { return e.error }

// Hint returns how to start anyway.
func (e sandboxError) Hint() string {
	if os.Getuid() != 0 {
		return "--user needs root"
	}
	return "--sandbox auto applies what this host supports"
}

// warnOfUnreadable logs each list that a reload could not read, and a program that an
// upgrade could not start, because they belong to root.
func (d *daemon) warnOfUnreadable() {
	for _, name := range d.config.Gateway.Lists.Files() {
		if err := unix.Access(name, unix.R_OK); err != nil {
			d.log.Warn().Str("file", name).Str("error", err.Error()).
				Str("hint", "make it readable for the user of --user").
				Msg("a reload cannot read this list")
		}
	}
	if err := unix.Access(d.program.Path, unix.X_OK); err != nil {
		d.log.Warn().Str("file", d.program.Path).Str("error", err.Error()).
			Str("hint", "install the program where the user of --user can execute it, such as /usr/bin").
			Msg("an upgrade cannot start this program")
	}
}

// capabilities returns what the forwards need while they serve: CAP_NET_RAW for
// IP_TRANSPARENT, SO_MARK and the self-test, and CAP_NET_BIND_SERVICE for clients' ports
// below 1024. An upgrade passes the open listeners on and needs none.
func capabilities(c *config.Config) (keep []sandbox.Capability) {
	anyForward := func(match func(*forward.Forward) bool) bool { return slices.ContainsFunc(c.Forwards, match) }
	if anyForward(func(f *forward.Forward) bool { return f.ConnectsAsClient() || f.Mark != 0 || f.TProxy }) {
		keep = append(keep, foreignAddresses())
	}
	if anyForward(func(f *forward.Forward) bool { return f.Mark != 0 }) && needsAdminForMarks() {
		keep = append(keep, sandbox.NetAdmin)
	}
	if anyForward((*forward.Forward).UsesClientPort) {
		keep = append(keep, sandbox.NetBindService)
	}
	return keep
}

// foreignAddresses returns the capability for the options of such sockets: CAP_NET_RAW, or
// CAP_NET_ADMIN, which permits more, for a process that has only that.
func foreignAddresses() sandbox.Capability {
	if !sandbox.Has(sandbox.NetRaw) {
		return sandbox.NetAdmin
	}
	return sandbox.NetRaw
}

// needsAdminForMarks reports whether CAP_NET_RAW is there and does not permit SO_MARK, as
// before Linux 5.17.
func needsAdminForMarks() bool {
	return foreignAddresses() == sandbox.NetRaw && !sandbox.PermitsMarks(sandbox.NetRaw)
}

// The places of the host.
var (
	// programs are where the programs and libraries of the host are: nft(8) and ip(8).
	programs = []string{"/usr", "/opt", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache"}
	// resolver is what resolver(5) and hosts(5) read. The files may be replaced by
	// others, so the directories are accessible.
	resolver = []string{"/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"}
)

// files returns the files that the process, and the one that takes over from it, use.
func (d *daemon) files() sandbox.Files {
	c := d.config.Gateway
	files := sandbox.Files{
		Read:    []string{"/proc", "/sys", "/etc/localtime", "/usr/share/zoneinfo"},
		Devices: []string{"/dev/null"},
	}
	for _, name := range slices.Concat(c.Lists.Files(), c.EnvFiles) {
		files.Read = append(files.Read, directories(name)...)
	}
	if slices.ContainsFunc(c.Forwards, func(f *forward.Forward) bool { return f.AnyBackend(isName) }) {
		files.Read = append(files.Read, resolver...)
		files.Read = append(files.Read, directories("/etc/resolv.conf")...)
	}
	if path := banFile(c); path != "" {
		files.Write = append(files.Write, directories(path)...)
	}
	if c.User != nil {
		files.Read = append(files.Read, "/etc") // passwd(5) and group(5), which other programs replace
	}
	files.Run = d.runs()
	for _, path := range d.socketFiles() {
		files.Sockets = append(files.Sockets, filepath.Dir(path))
	}
	for _, s := range d.spare { // their files are removed when this process serves
		if s.Path != "" {
			files.Sockets = append(files.Sockets, filepath.Dir(s.Path))
		}
	}
	return files
}

// runs returns the programs that an upgrade, the self-test and templates start. In mode
// auto an upgrade may start what is installed anywhere on the host, such as the next
// version in another directory.
func (d *daemon) runs() []string {
	own := directories(d.program.Path)
	switch c := d.config.Gateway; {
	case c.Sandbox != sandbox.Strict:
		return slices.Concat(own, programs)
	case d.watch != nil || c.Lists.HasTemplates() || !isStatic(d.program.Path):
		return slices.Concat(own, programs)
	}
	return own
}

// banFile returns the path of the ban file, or "".
func banFile(c *config.Config) string {
	if c.Bans == nil {
		return ""
	}
	return c.Bans.Path()
}

func isName(b forward.Backend) bool { return b.Host != "" }

// directories returns the directory of a file, and that of the file that it links to: a
// file that replaces it is accessible as well.
func directories(name string) []string {
	all := []string{filepath.Dir(name)}
	if to, err := filepath.EvalSymlinks(name); err == nil && filepath.Dir(to) != all[0] {
		all = append(all, filepath.Dir(to))
	}
	return all
}

// isStatic reports whether a program needs no dynamic linker and no interpreter.
func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false // a script, which an upgrade would start
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

package attach

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// allowMulti is BPF_F_ALLOW_MULTI: programs of others may be attached beside and below.
const allowMulti = 2

// attached are the programs of a role that a cgroup has. The caller closes them.
type attached struct {
	role   Role
	ours   []*ebpf.Program // as role.hooks; nil: not attached
	others []Other
}

// Other is a program of someone else at one of the hooks.
type Other struct {
	Name string // as its author named it, at most 15 bytes; "" if it has none
	Hook string // such as "CGroupSockOps"
}

// find returns what is attached to the cgroup of an open directory.
func find(dir *os.File, r Role) (*attached, error) {
	a := &attached{role: r, ours: make([]*ebpf.Program, len(r.hooks()))}
	for i, h := range r.hooks() {
		if err := a.findAt(dir, i, h); err != nil {
			a.close()
			return nil, explain("query the programs of "+dir.Name(), err)
		}
	}
	return a, nil
}

// findAt looks at one hook.
func (a *attached) findAt(dir *os.File, i int, h hook) error {
	there, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.at})
	if err != nil {
		return err
	}
	for _, one := range there.Programs {
		p, err := ebpf.NewProgramFromID(one.ID)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached meanwhile
		}
		if err != nil {
			return err
		}
		info, err := p.Info()
		if err != nil {
			p.Close()
			return err
		}
		if info.Name == h.program && a.ours[i] == nil {
			a.ours[i] = p
			continue
		}
		if !isOurs(info.Name) {
			a.others = append(a.others, Other{info.Name, h.at.String()})
		}
		p.Close()
	}
	return nil
}

// isOurs reports whether a program has one of our names, of either role: both roles have
// a program at one of the hooks.
func isOurs(name string) bool {
	named := func(h hook) bool { return h.program == name }
	return slices.ContainsFunc(serverHooks[:], named) || slices.ContainsFunc(gatewayHooks[:], named)
}

// count returns how many of the role's programs are attached.
func (a *attached) count() (n int) {
	for _, p := range a.ours {
		if p != nil {
			n++
		}
	}
	return n
}

func (a *attached) close() {
	for _, p := range a.ours {
		if p != nil {
			p.Close()
		}
	}
}

// maps returns the maps that the attached programs hold, by name. The caller closes them.
func (a *attached) maps() (map[string]*ebpf.Map, error) {
	all := map[string]*ebpf.Map{}
	for _, p := range a.ours {
		if p == nil {
			continue
		}
		if err := addMaps(all, p); err != nil {
			closeMaps(all)
			return nil, explain("find the maps of the attached programs", err)
		}
	}
	return all, nil
}

func addMaps(all map[string]*ebpf.Map, p *ebpf.Program) error {
	info, err := p.Info()
	if err != nil {
		return err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		about, err := m.Info()
		if err != nil || all[about.Name] != nil {
			m.Close()
		}
		if err != nil {
			return err
		}
		if all[about.Name] == nil {
			all[about.Name] = m
		}
	}
	return nil
}

func closeMaps(all map[string]*ebpf.Map) {
	for _, m := range all {
		m.Close()
	}
}

// load loads the programs of a role. They use the maps of those that are attached
// already. The caller closes the collection.
func load(r Role, existing map[string]*ebpf.Map) (*ebpf.Collection, error) {
	raiseLockedMemory()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(r.object()))
	if err != nil {
		return nil, fmt.Errorf("read the object of the %s's programs: %w", r, err)
	}
	replacements := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if m := existing[name]; m != nil {
			replacements[name] = m
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	return c, explain(fmt.Sprintf("load the %s's programs", r), err)
}

// raiseLockedMemory lifts the limit that kernels before 5.11 charge maps to. Where it
// fails, loading fails on those kernels alone, with EPERM.
func raiseLockedMemory() {
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
}

// attachAll attaches the programs of a collection, each in place of its predecessor if
// there is one. After a failure those that had none are detached again.
func (a *attached) attachAll(dir *os.File, c *ebpf.Collection) error {
	for i, h := range a.role.hooks() {
		o := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: c.Programs[h.program], Attach: h.at, Flags: allowMulti}
		if a.ours[i] != nil {
			o.Anchor = link.ReplaceProgram(a.ours[i])
		}
		if err := link.RawAttachProgram(o); err != nil {
			a.undo(dir, c, i)
			return a.refused(dir.Name(), h, err)
		}
	}
	return nil
}

// undo detaches the programs before the hook with that index that had no predecessor.
func (a *attached) undo(dir *os.File, c *ebpf.Collection, failed int) {
	for i := failed - 1; i >= 0; i-- {
		if h := a.role.hooks()[i]; a.ours[i] == nil {
			_ = detach(dir, h, c.Programs[h.program])
		}
	}
}

// refused explains why a program cannot be attached.
func (a *attached) refused(path string, h hook, err error) error {
	doing := fmt.Sprintf("attach %s to %s", h.program, path)
	if !errors.Is(err, unix.EPERM) {
		return explain(doing, err)
	}
	if owner := exclusive(path, h); owner != "" {
		return &Error{doing, "another program allows none beside it or below: " + owner +
			"; attach to another cgroup, or have its owner attach it with BPF_F_ALLOW_MULTI", err}
	}
	return explain(doing, err)
}

// detachAll detaches the programs, the last attached first. It goes on after an error.
func (a *attached) detachAll(dir *os.File) error {
	var failures []error
	for i, h := range slices.Backward(a.role.hooks()) {
		if p := a.ours[i]; p != nil {
			failures = append(failures, explain("detach "+h.program+" from "+dir.Name(), detach(dir, h, p)))
		}
	}
	return errors.Join(failures...)
}

func detach(dir *os.File, h hook, p *ebpf.Program) error {
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: h.at})
}

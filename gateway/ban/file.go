package ban

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// mostFile is the length of the longest file that is read.
const mostFile = 64 << 20

// newMode is the mode of a file that did not exist. Bans name clients.
const newMode = 0o600

// file is the state of a list's file.
type file struct {
	writing  sync.Mutex
	saved    uint64 // version of the list that the file holds
	failures atomic.Uint64
}

// SaveError means that a list could not be written to its file.
type SaveError struct {
	Path string
	Err  error
}

// Error names the file and the cause.
func (e *SaveError) Error() string { return fmt.Sprintf("write ban file %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *SaveError) Unwrap() error { return e.Err }

// Open returns the list that a file holds, without the bans that have ended. A file that
// does not exist, or is empty, is an empty list. now is the wall clock. The error names
// the file, and the line that is wrong.
func Open(path string, now func() time.Time) (*List, error) {
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read ban file %s: %w", path, withoutPath(err))
	}
	all, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read ban file %s: %w", path, err)
	}
	l := New(now)
	l.path = path
	for i := range all {
		all[i].Hits = 0 // of another process
	}
	if err := l.Replace(all); err != nil {
		return nil, fmt.Errorf("read ban file %s: %w", path, err)
	}
	return l, nil
}

// read returns the content of a regular file, "" if there is none. Opening a FIFO would
// wait for its writer (fifo(7)).
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, mostFile+1))
	if err == nil && len(text) > mostFile {
		err = fmt.Errorf("it is longer than %d MiB", mostFile>>20)
	}
	return text, err
}

// Path returns the path of the file, or "".
func (l *List) Path() string { return l.path }

// SaveFailures returns how often the file could not be written.
func (l *List) SaveFailures() uint64 { return l.file.failures.Load() }

// Save writes the list to its file, if it has one, even if it has not changed. The error is
// a [*SaveError].
func (l *List) Save() error {
	l.mu.Lock()
	l.version++
	version := l.version
	l.mu.Unlock()
	return l.save(version)
}

// save returns when the file holds at least a version of the list. One write serves all
// that wait for the one before it.
func (l *List) save(version uint64) error {
	if l.path == "" {
		return nil
	}
	f := &l.file
	f.writing.Lock()
	defer f.writing.Unlock()
	if f.saved >= version {
		return nil
	}
	l.mu.Lock()
	latest := l.version // before the bans are read: they may be newer
	l.mu.Unlock()
	if err := write(l.path, Format(l.All())); err != nil {
		f.failures.Add(1)
		return &SaveError{l.path, withoutPath(err)}
	}
	f.saved = latest
	return nil
}

// write replaces the content of a file at once: after a crash it holds the old text or the
// new one. It keeps the mode and, if permitted, the owner. A symbolic link stays.
func write(path string, text []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, newMode)
	if err != nil {
		return err
	}
	err = errors.Join(likeBefore(f, path), fill(f, text))
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// likeBefore gives f the mode and owner of the file at path, if there is one. Only a
// privileged process may change the owner.
func likeBefore(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // a new file
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return f.Chmod(info.Mode().Perm())
}

// fill writes the text to the disk and closes f.
func fill(f *os.File, text []byte) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes a rename durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// withoutPath returns the cause of an error about a file, which the message names already.
func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

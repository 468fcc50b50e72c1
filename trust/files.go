package trust

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits on one file. They keep a wrong path, such as a log or a device, from
// exhausting memory or flooding the terminal.
const (
	maxFileBytes    = 16 << 20
	maxFileProblems = 20
)

// maxHanging limits the reads that go on after their timeout. Each of them may
// hold a thread of the process.
const maxHanging = 8

// DefaultTimeout is the time limit for reading one file.
const DefaultTimeout = 5 * time.Second

// Files reads rule files within a time limit. A FIFO, or a file on a network mount
// whose server is gone, results in an error instead of a read that never returns. The
// zero value is ready to use. It is safe for concurrent use.
type Files struct {
	// Timeout limits the time for one file; 0 is [DefaultTimeout].
	Timeout time.Duration

	hanging atomic.Int32
	open    func(name string) (io.ReadCloser, error) // for tests; nil opens a file
}

// read returns the content of a file of at most maxFileBytes.
func (f *Files) read(name string) (string, error) {
	if n := f.hanging.Load(); n >= maxHanging {
		return "", fmt.Errorf("%d earlier reads of such files still hang", n)
	}
	timeout := f.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	type content struct {
		text string
		err  error
	}
	done := make(chan content, 1)
	f.hanging.Add(1)
	go func() {
		defer f.hanging.Add(-1)
		text, err := f.readAll(name)
		done <- content{text, err}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case c := <-done:
		return c.text, c.err
	case <-timer.C:
		return "", fmt.Errorf("it could not be read within %v", timeout)
	}
}

// readAll opens and reads a file.
func (f *Files) readAll(name string) (string, error) {
	open := f.open
	if open == nil {
		open = OpenFile
	}
	file, err := open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFileBytes {
		return "", fmt.Errorf("it is longer than %d MiB", maxFileBytes>>20)
	}
	return string(b), nil
}

// OpenFile opens a regular file. It refuses a FIFO and a device: a list of rules or
// settings is read more than once, and by then their content is gone. O_NONBLOCK keeps
// open(2) from waiting for the writer of a FIFO, see fifo(7).
func OpenFile(name string) (io.ReadCloser, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeDevice|fs.ModeSocket) != 0 {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("it is a FIFO or a device, not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// withoutPath returns the error without the path, which the message names already.
func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Fingerprint returns a string that changes when the content or the readability
// of any of the named files changes. It hashes content instead of comparing times and
// inodes: that detects a symbolic link that points elsewhere, as in a Kubernetes
// ConfigMap, and ignores a file that is rewritten unchanged.
func (f *Files) Fingerprint(names []string) string {
	h := sha256.New()
	for _, name := range names {
		text, err := f.read(name)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(h, "%q %t %d\n%s", name, err == nil, len(text), text)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

package trust

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"unproxy/integration_test/await"
)

func TestFingerprint(t *testing.T) {
	dir, reader := t.TempDir(), new(Files)
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "10.0.0.0/8\n")
	write("b", "")
	files := []string{path("a"), path("b")}
	first := reader.Fingerprint(files)
	same := func(what string, want bool) {
		t.Helper()
		if got := reader.Fingerprint(files) == first; got != want {
			t.Errorf("%s: fingerprint unchanged: %v, want %v", what, got, want)
		}
	}
	same("unchanged", true)
	write("a", "10.0.0.0/8\n")
	same("rewritten unchanged", true)
	write("a", "")
	write("b", "10.0.0.0/8\n")
	same("content moved to the other file", false)
	write("a", "10.0.0.0/8\n")
	write("b", "")
	same("restored", true)
	if err := os.Remove(path("b")); err != nil {
		t.Fatal(err)
	}
	same("file removed", false)
	// Kubernetes updates a ConfigMap by replacing a link to a directory.
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(path(version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(version+"/list", version)
	}
	if err := os.Symlink("v1", path("current")); err != nil {
		t.Fatal(err)
	}
	files = []string{path("current/list")}
	first = reader.Fingerprint(files)
	if err := os.Symlink("v2", path("next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path("next"), path("current")); err != nil {
		t.Fatal(err)
	}
	same("link retargeted", false)
}

// What is no regular file is refused at once: opening a FIFO must not wait for its
// writer, and reading one must not wait for content. The control is a regular file.
func TestFilesRefusesFIFOs(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"silent", "written"} {
		if err := syscall.Mkfifo(path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writer, err := os.OpenFile(path("written"), os.O_RDWR, 0) // O_RDWR does not wait, fifo(7)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	fmt.Fprintln(writer, "10.0.0.0/8")
	socket, err := net.Listen("unix", path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := os.Symlink(path("silent"), path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("regular"), []byte("10.0.0.0/8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, want string }{
		{path("silent"), "it is a FIFO or a device"},
		{path("written"), "it is a FIFO or a device"},
		{path("link"), "it is a FIFO or a device"},
		{"/dev/zero", "it is a FIFO or a device"},
		{path("socket"), "no such device or address"}, // ENXIO, see open(2)
		{dir, "is a directory"},
		{path("regular"), ""},
	} {
		set, _, err := Load(Source{Files: []string{row.name}})
		switch {
		case row.want == "" && (err != nil || set.Len() != 1):
			t.Errorf("%s: %v, %v; want one rule", row.name, set, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v; want %q", row.name, err, row.want)
		}
	}
}

// stuck is a file on a mount whose server is gone: nothing ends a read of it.
type stuck chan struct{}

func (s stuck) Read([]byte) (int, error) { <-s; return 0, io.EOF }
func (s stuck) Close() error             { return nil }

// Reads that hang are bounded, and another file can be read meanwhile. When the
// server is back, so is the file.
func TestFilesOnADeadMount(t *testing.T) {
	good := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(good, []byte("10.0.0.0/8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := make(stuck)
	f := &Files{Timeout: time.Millisecond, open: func(name string) (io.ReadCloser, error) {
		if name == "/dead/list" {
			return server, nil
		}
		return OpenFile(name)
	}}
	for i := range 3 * maxHanging {
		if _, err := f.read("/dead/list"); err == nil {
			t.Fatal("a file on a dead mount was read")
		}
		if i == 0 {
			f.Timeout = 0
			if text, err := f.read(good); text == "" || err != nil {
				t.Errorf("another file meanwhile: %q, %v", text, err)
			}
			f.Timeout = time.Millisecond
		}
	}
	if n := f.hanging.Load(); n != maxHanging {
		t.Errorf("%d reads hang, want %d at most", n, maxHanging)
	}
	close(server)
	await.Until(t, "no read hangs", func() bool { return f.hanging.Load() == 0 })
	f.Timeout = 0
	if text, err := f.read(good); text == "" || err != nil {
		t.Errorf("after it: %q, %v", text, err)
	}
}

// counted counts how often a file is closed.
type counted struct {
	io.Reader
	closed *int
}

func (c counted) Close() error { *c.closed++; return nil }

// A file is closed after it was read, and after a failure: files are read again at each
// reload. The smallest timeout is one, and not the default.
func TestFilesAreClosed(t *testing.T) {
	closed := 0
	broken := iotest.ErrReader(errors.New("broken"))
	f := &Files{open: func(name string) (io.ReadCloser, error) {
		if name == "broken" {
			return counted{broken, &closed}, nil
		}
		return counted{strings.NewReader("10.0.0.0/8"), &closed}, nil
	}}
	if text, err := f.read("good"); text != "10.0.0.0/8" || err != nil || closed != 1 {
		t.Errorf("%q, %v, closed %d times", text, err, closed)
	}
	if _, err := f.read("broken"); err == nil || closed != 2 {
		t.Errorf("%v, closed %d times", err, closed)
	}
	server := make(stuck)
	defer close(server)
	f = &Files{Timeout: 1, open: func(string) (io.ReadCloser, error) { return server, nil }}
	if _, err := f.read("x"); err == nil || err.Error() != "it could not be read within 1ns" {
		t.Error(err)
	}
}

// The limits keep a wrong path or a dead server from harm, and are no accident.
func TestFileLimits(t *testing.T) {
	if maxFileBytes != 16<<20 || maxFileProblems != 20 || maxHanging != 8 || DefaultTimeout != 5*time.Second {
		t.Errorf("%d bytes, %d problems, %d reads, %v", maxFileBytes, maxFileProblems, maxHanging, DefaultTimeout)
	}
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A file may be as long as the limit.
func TestLongestFile(t *testing.T) {
	for length, want := range map[int64]string{maxFileBytes: "", maxFileBytes + 1: "it is longer than 16 MiB"} {
		f := &Files{open: func(string) (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, length)), nil }}
		text, err := f.read("x")
		if want == "" && (err != nil || int64(len(text)) != length) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%d bytes: read %d, %v", length, len(text), err)
		}
	}
}

// A file that is refused is closed: the next one gets its descriptor.
func TestRefusedFileIsClosed(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	free := func() uintptr {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return f.Fd()
	}
	before := free()
	for range 50 {
		if f, err := OpenFile(fifo); err == nil {
			f.Close()
			t.Fatal("a FIFO was opened")
		}
	}
	if after := free(); after != before {
		t.Errorf("the next descriptor is %d, it was %d", after, before)
	}
}

package lab

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"unproxy/integration_test/race"
)

// binaryVariable is the environment variable with the path of the gateway. If it is
// set already, the tests use that program instead of building one.
const binaryVariable = "UNPROXY_TEST_BINARY"

// Main builds the gateway and runs the tests. TestMain calls it:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
//
// The gateway is built with the race detector if the tests are. When the test binary
// starts itself, as for a namespace, the new process uses the same build.
func Main(m *testing.M) int {
	if err := runMore(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(binaryVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "unproxy-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // tests run the program as other users, too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	path := filepath.Join(dir, "unproxy")
	if err := build(path, race.Enabled); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv(binaryVariable, path)
	return m.Run()
}

// Binary returns the path of the gateway that [Main] built.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv(binaryVariable)
	if path == "" {
		t.Fatal("the gateway was not built: TestMain must call lab.Main")
	}
	return path
}

// PlainBinary builds the gateway without the race detector and returns its path.
func PlainBinary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "unproxy")
	if err := build(path, false); err != nil {
		t.Fatal(err)
	}
	return path
}

// Slow runs a program that may take longer than any wait of a test, such as a compiler or
// an installation, and returns its output, of both streams. It ends with the test.
func Slow(t testing.TB, c Command) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), lookPath(t, c.Name), c.Args...)
	cmd.Env = append(environment(), c.Env...)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// runMore runs more tests at a time than there are processors, because tests mostly
// wait. The flag -parallel overrides it.
func runMore() error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
}

func build(path string, withRace bool) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	if err := touch(root); err != nil {
		return err
	}
	args := []string{"build", "-o", path}
	if withRace {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = root
	if !withRace {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in a release
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the gateway: %w\n%s", err, output)
	}
	return nil
}

// moduleRoot returns the directory of the program's module. A test may be in a module
// of its own below it, so a go.mod alone does not tell.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "main.go")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no main.go above the working directory")
		}
		dir = parent
	}
}

// touch stats every file below root. The go command reuses the result of a test
// if the files that it looked at are unchanged. The gateway's files must be among
// them, but they are not linked into the test.
func touch(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		_, err = os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the tree may change meanwhile
		}
		return err
	})
}

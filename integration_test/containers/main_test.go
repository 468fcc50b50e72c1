// Package containers_test tests the image, the compose file and the Kubernetes manifests
// without a container engine: it builds the image's root file system by the script that
// the Dockerfile calls, decodes the manifests with the types of their programs, and runs
// what they describe in namespaces, with the rights that they grant.
package containers_test

import (
	"os"
	"path/filepath"
	"testing"

	"unproxy/integration_test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const scripts = "../../scripts/package/"

func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// image builds the root file system of the image, outside of the test's namespace, and
// returns its directory inside and outside.
func image(t testing.TB) string {
	t.Helper()
	const variable = "UNPROXY_TEST_IMAGE"
	if dir := os.Getenv(variable + t.Name()); dir != "" {
		return dir
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can change to the root file system of an image")
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	output, err := lab.Slow(t, lab.Command{Name: scripts + "rootfs", Args: []string{dir},
		Env: []string{"VERSION=1.2.3", "COMMIT=0123456789abcdef", "SOURCE_DATE_EPOCH=1767323045"}})
	if err != nil {
		t.Fatalf("scripts/package/rootfs: %v\n%s", err, output)
	}
	os.Setenv(variable+t.Name(), dir)
	return dir
}

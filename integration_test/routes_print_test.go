package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// everyRecipe are flags of which the plan has rules and marks of both families.
func everyRecipe() []string {
	return []string{"--forward", "127.0.0.1:2000=127.0.0.1:25,[::1]:25,10.0.0.1:25,[fd00::1]:25",
		"--forward", "127.0.0.1:2001=198.51.100.5:30", "--trust", "127.0.0.1", "--transparent"}
}

// What print writes has the same effect as apply, in every format.
func TestRoutesPrint(t *testing.T) {
	for _, tt := range []struct {
		format string
		within func(*testing.T, func(*testing.T))
		use    func(t *testing.T, text string)
	}{
		{"shell", netns.Run, func(t *testing.T, text string) {
			for range 2 { // it says that it may be run again
				lab.Run(t, lab.Command{Name: "sh", Args: []string{lab.WriteFile(t, "routes.sh", text)}})
			}
		}},
		{"interfaces", netns.Run, useInterfaces},
		{"networkd", netns.RunAsRoot, useNetworkd},
		{"netplan", netns.RunAsRoot, useNetworkd},
	} {
		t.Run(tt.format, func(t *testing.T) {
			t.Parallel()
			tt.within(t, func(t *testing.T) {
				lab.Require(t, "nft")
				outsider(t)
				tt.use(t, routes(t, "print", append([]string{"--format", tt.format}, everyRecipe()...)))
				await.Until(t, "nothing is missing", func() bool {
					_, code := lab.RunGateway(t, append([]string{"routes", "check"}, everyRecipe()...)...)
					return code == 0
				})
				if text := routes(t, "apply", everyRecipe()); !strings.Contains(text, "nothing to change") {
					t.Errorf("apply afterwards: %s", text)
				}
			})
		})
	}
}

// useInterfaces runs the lines "up", as ifup(8) does, and loads what is for the
// service nftables.
func useInterfaces(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "up "); ok {
			output(t, "sh", "-c", command)
		}
	}
	loadFilter(t, text)
}

// loadFilter loads the part of text that is for /etc/nftables.conf.
func loadFilter(t *testing.T, text string) {
	t.Helper()
	_, filter, found := strings.Cut(text, "/etc/nftables.conf")
	if !found {
		t.Fatalf("there is nothing for nftables in\n%s", text)
	}
	_, filter, _ = strings.Cut(filter, "\n")
	output(t, "nft", "-f", lab.WriteFile(t, "nftables.conf", filter))
}

// useNetworkd has systemd-networkd itself read the file.
func useNetworkd(t *testing.T, text string) {
	t.Helper()
	const networkd = "/usr/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		t.Skip("systemd-networkd is not installed")
	}
	for _, dir := range []string{"/run", "/etc/systemd/network"} {
		netns.Directory(t, dir)
	}
	// Where it may not write to /sys it waits for no word of udev.
	output(t, "mount", "-t", "sysfs", "-o", "ro", "none", "/sys")
	for _, dir := range []string{"/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp", "/run/systemd/network"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	network, _, _ := strings.Cut(text, "# /etc/nftables.conf")
	if err := os.WriteFile(filepath.Join("/etc/systemd/network", "50-unproxy.network"), []byte(network), 0o644); err != nil {
		t.Fatal(err)
	}
	lab.Start(t, lab.Command{Name: networkd})
	loadFilter(t, text)
}

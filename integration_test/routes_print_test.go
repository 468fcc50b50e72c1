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

// allRoutes returns flags whose plan has rules and marks for both families.
func allRoutes() []string {
	return []string{"--forward", "127.0.0.1:2000=127.0.0.1:25,[::1]:25,10.0.0.1:25,[fd00::1]:25",
		"--forward", "127.0.0.1:2001=198.51.100.5:30", "--trust", "127.0.0.1", "--transparent"}
}

// The output of print, in each format, has the same effect as apply.
func TestRoutesPrint(t *testing.T) {
	for _, tt := range []struct {
		format string
		within func(*testing.T, func(*testing.T))
		use    func(t *testing.T, text string)
	}{
		{"shell", netns.Run, func(t *testing.T, text string) {
			for range 2 { // the script can run again
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
				tt.use(t, routes(t, "print", append([]string{"--format", tt.format}, allRoutes()...)))
				await.Until(t, "routes check finds all routes", func() bool {
					_, code := lab.RunGateway(t, append([]string{"routes", "check"}, allRoutes()...)...)
					return code == 0
				})
				if text := routes(t, "apply", allRoutes()); !strings.Contains(text, "nothing to change") {
					t.Errorf("apply afterwards: %s", text)
				}
			})
		})
	}
}

// useInterfaces runs the "up" lines, as ifup(8) does, and loads the part for the
// nftables service.
func useInterfaces(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "up "); ok {
			lab.Output(t, "sh", "-c", command)
		}
	}
	loadFilter(t, text)
}

// loadFilter loads the part of text for /etc/nftables.conf.
func loadFilter(t *testing.T, text string) {
	t.Helper()
	_, filter, found := strings.Cut(text, "/etc/nftables.conf")
	if !found {
		t.Fatalf("no part for nftables in\n%s", text)
	}
	_, filter, _ = strings.Cut(filter, "\n")
	lab.Output(t, "nft", "-f", lab.WriteFile(t, "nftables.conf", filter))
}

// useNetworkd starts systemd-networkd with the file.
func useNetworkd(t *testing.T, text string) {
	t.Helper()
	const networkd = "/usr/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		t.Skip("systemd-networkd is not installed")
	}
	for _, dir := range []string{"/run", "/etc/systemd/network"} {
		netns.Directory(t, dir)
	}
	// With a read-only /sys it does not wait for udev.
	lab.Output(t, "mount", "-t", "sysfs", "-o", "ro", "none", "/sys")
	for _, dir := range []string{"/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp",
		"/run/systemd/network"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	network, _, _ := strings.Cut(text, "# /etc/nftables.conf")
	if err := os.WriteFile(filepath.Join("/etc/systemd/network", "50-unproxy.network"), []byte(network),
		0o644); err != nil {
		t.Fatal(err)
	}
	lab.Start(t, lab.Command{Name: networkd})
	loadFilter(t, text)
}

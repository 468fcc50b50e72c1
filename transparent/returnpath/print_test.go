package returnpath_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"unproxy/transparent/returnpath"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestPrint(t *testing.T) {
	p := returnpath.New([]returnpath.Backend{
		backend("127.0.0.1:22", loopback), backend("[::1]:22", loopback), backend("10.9.0.2:25-30", container),
		backend("172.17.0.2:80", bridged), backend("udp 10.0.0.5:53", local), backend("10.5.0.2:25", routed),
	}, []returnpath.Redirect{
		{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Ports: returnpath.Ports{Low: 1000, High: 2000},
			To: netip.MustParseAddrPort("[::]:2577")},
	}, returnpath.Options{})
	if n := len(returnpath.FormatNames()); n < 3 {
		t.Fatalf("%d formats", n)
	}
	for i, name := range returnpath.FormatNames() {
		golden(t, name, p.Print(returnpath.Format(i)))
	}
}

func TestBackendHost(t *testing.T) {
	h := returnpath.BackendHost{
		Backends: []returnpath.Backend{backend("10.9.0.2:25", container), backend("[fd09::2]:25", container)},
		Gateways: []returnpath.Gateway{
			{MAC: "52:54:00:00:00:05", Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.5"), netip.MustParseAddr("fd09::5")}},
			{MAC: "52:54:00:00:00:06", Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.6")}},
			{Device: "wg0"},
		},
	}
	golden(t, "backend-host", h.String())
}

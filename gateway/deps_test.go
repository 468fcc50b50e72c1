package gateway_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is the import path of the module, without which nothing here works.
const module = "unproxy"

// allowed lists, for each package, the packages of this module and of other modules
// that it may import. Tests may import anything. A package that is not listed is a
// failure: it must first get its place. Only gateway/command, at the top, has no row;
// see free.
//
//	command -> daemon -> gateway -> datagram -> engine -> kernel, limit, source, forward, record, proxyproto
//	                  -> admin, doctor -> config, readiness
//	                     config -> trust, transparent (never each other, never gateway)
//
// No package but command and daemon imports gateway.
var allowed = map[string][]string{
	"": {"gateway/command"},
	"gateway": {"gateway/ban", "gateway/clients", "gateway/config", "gateway/datagram", "gateway/engine", "gateway/forward", "gateway/kernel", "gateway/record",
		"gateway/supervise", "transparent", "transparent/routing"},
	"gateway/config":       {"gateway/ban", "gateway/config/value", "gateway/forward", "gateway/proxyproto", "gateway/sandbox", "gateway/source", "transparent", "transparent/returnpath", "transparent/toa", "trust", sockaddr + "/template"},
	"gateway/config/value": {},
	"gateway/readiness":    {},
	"gateway/accesslog":    {"gateway/record", "github.com/mattn/go-isatty", "github.com/rs/zerolog", "github.com/rs/zerolog/diode", unix},
	"gateway/admin": {"gateway/ban", "gateway/config", "gateway/config/value", "gateway/datagram", "gateway/engine", "gateway/forward", "gateway/kernel",
		"gateway/readiness", "gateway/record", "gateway/sandbox", "trust", prometheus, prometheus + "/collectors", prometheus + "/promhttp"},
	"gateway/daemon": {"gateway", "gateway/accesslog", "gateway/admin", "gateway/ban", "gateway/config", "gateway/config/value", "gateway/datagram", "gateway/doctor",
		"gateway/engine", "gateway/forward", "gateway/readiness", "gateway/record", "gateway/sandbox", "gateway/supervise",
		"github.com/rs/zerolog", unix},
	"gateway/datagram": {"gateway/clients", "gateway/engine", "gateway/forward", "gateway/kernel", "gateway/limit", "gateway/proxyproto",
		"gateway/record", "gateway/source", "transparent", unix},
	"gateway/doctor": {"gateway/config", "gateway/config/value", "gateway/forward", "gateway/kernel", "gateway/readiness", "gateway/sandbox", "gateway/source", "transparent", "transparent/returnpath", "transparent/routing", "transparent/toa", unix},
	"gateway/engine": {"gateway/clients", "gateway/forward", "gateway/kernel", "gateway/limit", "gateway/proxyproto", "gateway/record",
		"gateway/source", "transparent", "transparent/toa", unix},
	"gateway/forward": {"gateway/proxyproto", "transparent", "transparent/toa"},
	"gateway/kernel":  {"transparent", "transparent/toa", unix},
	"gateway/limit":   {"gateway/forward"},
	"gateway/source":  {"transparent", unix},
	"gateway/ban":     {"github.com/gaissmai/bart"},
	"gateway/clients": {"gateway/forward", "gateway/limit", "gateway/record", "transparent"},
	// The verbs. None imports command, which imports them all.
	"gateway/command/decode": {"gateway/config", "gateway/command/usage", "gateway/proxyproto", cli},
	"gateway/command/demo": {"gateway", "gateway/accesslog", "gateway/config", "gateway/config/value", "gateway/command/usage", "gateway/daemon",
		"gateway/proxyproto", "transparent/returnpath", "transparent/routing", cli},
	"gateway/command/migrate": {"gateway/command/usage", "gateway/config", "transparent/routing", "trust", cli},
	"gateway/command/probe": {"gateway/command/decode", "gateway/command/usage", "gateway/config/value", "gateway/datagram",
		"gateway/kernel", "gateway/proxyproto", cli},
	"gateway/command/toa":   {"gateway/command/usage", "gateway/config", "gateway/config/value", "transparent/toa/attach", cli},
	"gateway/command/usage": {"gateway/config", "gateway/config/value", "transparent/routing", "trust", cli},

	"gateway/proxyproto": {},
	"gateway/sandbox":    {landlock + "/landlock", landlock + "/landlock/syscall", capabilities + "/cap", unix},
	"gateway/record":     {},
	"gateway/supervise":  {"github.com/coreos/go-systemd/v22/daemon", unix},
	"trust":              {sockaddr, sockaddr + "/template", "github.com/gaissmai/bart"},
	"transparent":        {unix},
	"transparent/toa":    {unix},
	// Only commands import it: the gateway's process loads no BPF programs.
	"transparent/toa/attach": {ebpf, ebpf + "/link", unix},
	// The return path: the plan as data, and the host's routing.
	"transparent/returnpath": {},
	"transparent/routing":    {"transparent", "transparent/returnpath", "github.com/vishvananda/netlink", "github.com/vishvananda/netlink/nl", unix},
}

const (
	sockaddr = "github.com/hashicorp/go-sockaddr"
	unix     = "golang.org/x/sys/unix"
	cli      = "github.com/urfave/cli/v2"
	ebpf     = "github.com/cilium/ebpf"

	landlock     = "github.com/landlock-lsm/go-landlock"
	capabilities = "kernel.org/pub/linux/libs/security/libcap"

	prometheus = "github.com/prometheus/client_golang/prometheus"
)

// kept lists the only packages that may import a dependency, so that replacing the
// dependency changes one package. Package command needs a listing too.
var kept = map[string][]string{
	"github.com/urfave/cli": {"gateway/command", "gateway/command/decode", "gateway/command/demo",
		"gateway/command/migrate", "gateway/command/probe", "gateway/command/toa",
		"gateway/command/usage"},
	"github.com/rs/zerolog":          {"gateway/accesslog", "gateway/command", "gateway/daemon"},
	"github.com/hashicorp":           {"gateway/config", "trust"},
	"github.com/vishvananda/netlink": {"transparent/routing"},
	"github.com/gaissmai/bart":       {"trust", "gateway/ban"},
	ebpf:                             {"transparent/toa/attach"},
	"github.com/prometheus":          {"gateway/admin"},
	"github.com/coreos/go-systemd":   {"gateway/supervise"},
	landlock:                         {"gateway/sandbox"},
	capabilities:                     {"gateway/sandbox"},
	"github.com/pires/go-proxyproto": {}, // an oracle for tests
	"github.com/rogpeppe":            {},
	"github.com/chromedp":            {}, // a browser for tests, in a module of its own
	"github.com/mattn/go-isatty":     {"gateway/accesslog"},
	"golang.org/x/term":              {"gateway/command"},
	"net/http":                       {"gateway/admin", "gateway/command"},
	"os/exec":                        {"gateway/command/demo", "gateway/supervise", "transparent/routing"},
}

// free reports whether a package may import everything that kept allows it: command,
// and the packages for tests and development.
func free(name string) bool {
	return name == "gateway/command" || strings.HasPrefix(name, "scripts") || strings.HasPrefix(name, "integration_test")
}

func TestDependencies(t *testing.T) {
	imports := map[string][]string{}
	for _, p := range modulePackages(t) {
		rest, inModule := strings.CutPrefix(p.ImportPath, module)
		if !inModule || rest != "" && rest[0] != '/' {
			continue
		}
		name := strings.TrimPrefix(rest, "/")
		imports[name] = p.Imports
		for _, imported := range p.Imports {
			checkImport(t, name, imported)
		}
	}
	for name, may := range allowed {
		for _, one := range may {
			if !slices.Contains(imports[name], one) && !slices.Contains(imports[name], module+"/"+one) {
				t.Errorf("%q may import %s, but does not: remove it from the row", name, one)
			}
		}
		if _, exists := imports[name]; !exists {
			t.Errorf("there is no package %q", name)
		}
	}
}

func checkImport(t *testing.T, name, imported string) {
	for prefix, packages := range kept {
		if strings.HasPrefix(imported, prefix) && !slices.Contains(packages, name) && !development(name) {
			t.Errorf("%q imports %s, which is kept to %q", name, imported, packages)
		}
	}
	if free(name) || standard(imported) {
		return
	}
	may, listed := allowed[name]
	if !listed {
		t.Errorf("%q has no place in the order of packages", name)
		return
	}
	if !slices.Contains(may, strings.TrimPrefix(imported, module+"/")) {
		t.Errorf("%q imports %s", name, imported)
	}
}

// development reports whether a package is no part of the program.
func development(name string) bool { return free(name) && name != "gateway/command" }

// standard reports whether a package is of the standard library: the others
// have a dot in their first element, or the module's name.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return first != module && !strings.Contains(first, ".")
}

// goPackage is the part of go list's answer that is used here.
type goPackage struct {
	ImportPath string
	Imports    []string
}

// modulePackages lists the module's packages and all that they depend on.
func modulePackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestPureCore holds the packages that do no I/O to it, through everything
// they depend on: proxyproto decodes, value reads words, record and readiness
// name things.
func TestPureCore(t *testing.T) {
	byPath := map[string]goPackage{}
	for _, p := range modulePackages(t) {
		byPath[p.ImportPath] = p
	}
	for _, name := range []string{"gateway/config/value", "gateway/proxyproto", "gateway/readiness", "gateway/record", "transparent/returnpath"} {
		p, ok := byPath[module+"/"+name]
		if !ok {
			t.Errorf("there is no package %s", name)
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains([]string{"net", "os", "syscall", "os/exec", "net/http", unix}, imported) {
				t.Errorf("%s imports %s: it does no I/O", name, imported)
			}
		}
	}
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"unproxy/scripts/bench/report"
)

// program is a program to measure.
type program struct {
	name    string
	command []string // nil means no gateway: the load connects to the backend
	headers bool     // whether it expects PROXY headers
}

// variant changes a program for a section.
type variant struct {
	name    string   // appended to the program's name
	args    []string // for unproxy; nil means no access log
	trust   []string // for unproxy: who is served; nil means everybody
	global  string   // for HAProxy's global section
	rules   []string // for HAProxy: who is served
	splice  bool     // for HAProxy: splice always instead of only for streams it detects
	threads int      // unproxy's loops and HAProxy's threads; 0 means 1
}

// catalogue has the programs to measure.
type catalogue struct {
	self, scratch string
	most          int // connections that each must hold
	peer          peerOptions

	unproxy, haproxy, nginx []executable

	// toa has the programs for --transparent toa; nil if it is not measured.
	toa *toaGroup
}

// executable is the path of a program and its name in the tables.
type executable struct{ name, path string }

// newCatalogue builds unproxy unless it is given, finds the other programs, and reports
// missing ones.
func newCatalogue(o options, scratch string, most int) (*catalogue, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &catalogue{self: self, scratch: scratch, most: most, peer: o.peer}
	if len(o.unproxy) == 0 {
		o.unproxy = []string{filepath.Join(scratch, "unproxy")}
		if out, err := exec.Command("go", "build", "-o", o.unproxy[0], "unproxy").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build unproxy: %w\n%s", err, out)
		}
	}
	for i, path := range o.unproxy {
		name := report.Base
		if i > 0 {
			name += " " + strconv.Itoa(i+1)
		}
		c.unproxy = append(c.unproxy, executable{name, path})
	}
	c.haproxy = found("HAProxy", append([]string{"haproxy"}, o.haproxy...))
	c.nginx = found("nginx", append([]string{"nginx"}, o.nginx...))
	if len(c.haproxy) == 0 {
		fmt.Fprintln(os.Stderr, "bench: HAProxy is not measured, it is not installed (Debian: haproxy)")
	}
	if len(c.nginx) > 0 && !exists(nginxStream) {
		fmt.Fprintln(os.Stderr,
			"bench: nginx is not measured, its stream module is not installed (Debian: libnginx-mod-stream)")
		c.nginx = nil
	} else if len(c.nginx) == 0 {
		fmt.Fprintln(os.Stderr, "bench: nginx is not measured, it is not installed (Debian: nginx, libnginx-mod-stream)")
	}
	return c, nil
}

// found returns the programs that exist. Their names contain the version, "HAProxy 2.6".
func found(name string, paths []string) (all []executable) {
	for _, path := range paths {
		path, err := lookPath(path)
		if err != nil {
			continue
		}
		out, err := exec.Command(path, "-v").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is not measured: %v\n", path, err)
			continue
		}
		e := executable{name + " " + version(string(out)), path}
		if slices.ContainsFunc(all, func(other executable) bool { return other.name == e.name }) {
			e.name += " " + path
		}
		all = append(all, e)
	}
	return all
}

// lookPath also searches the directory where Debian installs daemons.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// version returns the first two numbers in the output of -v: "HAProxy version
// 2.6.12-1 ...", "nginx version: nginx/1.22.1".
func version(said string) string {
	for word := range strings.FieldsFuncSeq(said, func(r rune) bool {
		return r == ' ' || r == '/' || r == '\n' || r == '-'
	}) {
		if word[0] >= '0' && word[0] <= '9' {
			numbers := strings.Split(word, ".")
			return strings.Join(numbers[:min(2, len(numbers))], ".")
		}
	}
	return "of unknown version"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tcp lists the programs for TCP in a mode.
func (c *catalogue) tcp(mode string) (all []program, err error) {
	for _, e := range c.unproxy {
		all = append(all, c.unproxyTCP(e, mode, variant{}))
	}
	others, err := c.haproxies(mode, variant{})
	if err != nil {
		return nil, err
	}
	all = append(all, others...)
	for _, e := range c.nginx {
		p, err := c.nginxTCP(e, mode)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	all = append(all, program{"goroutines", []string{c.self, tcpRelayPart, mode}, true})
	if c.isPeerOf(mode) {
		all = append(all, c.other("tcp"))
	}
	return append(all, program{name: report.Direct}), nil
}

// udp lists the programs for UDP in a mode.
func (c *catalogue) udp(mode string) (all []program, err error) {
	for _, e := range c.unproxy {
		command := []string{e.path, "--forward", fmt.Sprintf("udp://%v=%v", gatewayAddress, backendAddress),
			"--trust", "127.0.0.0/8", "--loops", "1", "--log-level", "error"}
		if mode == transparent {
			command = append(command, "--transparent")
		}
		all = append(all, program{e.name, command, true})
	}
	if c.isPeerOf(mode) {
		all = append(all, c.other("udp"))
	}
	if mode == transparent { // without headers the client is unknown
		return all, nil
	}
	for _, e := range c.nginx {
		p, err := c.nginxUDP(e)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return append(all, program{"goroutines", []string{c.self, udpRelayPart}, false}), nil
}

// isPeerOf reports whether --peer is measured in a mode.
func (c *catalogue) isPeerOf(mode string) bool {
	return c.peer.command != "" && c.peer.transparent == (mode == transparent)
}

func (c *catalogue) unproxyTCP(e executable, mode string, v variant) program {
	command := []string{
		e.path, "--forward", fmt.Sprintf("tcp://%v=%v", gatewayAddress, backendAddress),
		"--loops", strconv.Itoa(max(1, v.threads)), "--max-connections", strconv.Itoa(c.most), "--max-waiting", "0",
		"--log-level", "error",
	}
	if mode == transparent {
		command = append(command, "--transparent")
	}
	if v.args == nil {
		v.args = []string{"--access-log", "off"}
	}
	if v.trust == nil {
		v.trust = []string{"--trust", "127.0.0.0/8"}
	}
	return program{e.name + v.name, slices.Concat(command, v.trust, v.args), true}
}

// other returns the program of --peer.
func (c *catalogue) other(protocol string) program {
	with := strings.NewReplacer("{listen}", gatewayAddress.String(), "{backend}", backendAddress.String(), "{protocol}",
		protocol)
	return program{c.peer.name, strings.Fields(with.Replace(c.peer.command)), c.peer.headers}
}

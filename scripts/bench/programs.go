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

// program is one that is measured.
type program struct {
	name    string
	command []string // nil is no gateway at all: the load connects to the backend
	headers bool     // it expects PROXY headers
}

// variant is what a section asks of a program beside what is usual.
type variant struct {
	name   string   // behind the program's own
	args   []string // of unproxy, instead of no access log
	global string   // of HAProxy's global section
	splice bool     // HAProxy: always, not only what it takes for a stream in bulk
}

// catalogue knows the programs that are to be measured.
type catalogue struct {
	self, scratch string
	most          int // connections that each is to hold
	peer          peerOptions

	unproxy, haproxy, nginx []executable
}

// executable is a program's file, and its name in the tables.
type executable struct{ name, path string }

// newCatalogue builds unproxy where none is given, finds the others, and says
// what there is not.
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
		fmt.Fprintln(os.Stderr, "bench: without HAProxy, which is not installed (Debian: haproxy)")
	}
	if len(c.nginx) > 0 && !exists(nginxStream) {
		fmt.Fprintln(os.Stderr, "bench: without nginx, its stream module is not installed (Debian: libnginx-mod-stream)")
		c.nginx = nil
	} else if len(c.nginx) == 0 {
		fmt.Fprintln(os.Stderr, "bench: without nginx, which is not installed (Debian: nginx, libnginx-mod-stream)")
	}
	return c, nil
}

// found returns those of the programs that there are, with their version for a
// name, "HAProxy 2.6".
func found(name string, paths []string) (all []executable) {
	for _, path := range paths {
		path, err := lookPath(path)
		if err != nil {
			continue
		}
		out, err := exec.Command(path, "-v").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: without %s: %v\n", path, err)
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

// lookPath also looks where Debian keeps daemons.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// version is the first two numbers of what a program says with -v: "HAProxy version
// 2.6.12-1 ...", "nginx version: nginx/1.22.1".
func version(said string) string {
	for word := range strings.FieldsFuncSeq(said, func(r rune) bool { return r == ' ' || r == '/' || r == '\n' || r == '-' }) {
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
	for _, e := range c.haproxy {
		p, err := c.haproxyTCP(e, mode, variant{})
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
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
		command := []string{e.path, "--forward", fmt.Sprintf("udp://%v=%v", gatewayAddress, backendAddress), "--trust", "127.0.0.0/8", "--loops", "1", "--log-level", "error"}
		if mode == transparent {
			command = append(command, "--transparent")
		}
		all = append(all, program{e.name, command, true})
	}
	if c.isPeerOf(mode) {
		all = append(all, c.other("udp"))
	}
	if mode == transparent { // without headers nobody knows a client
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

// isPeerOf says whether there is a --peer to be measured in a mode.
func (c *catalogue) isPeerOf(mode string) bool {
	return c.peer.command != "" && c.peer.transparent == (mode == transparent)
}

func (c *catalogue) unproxyTCP(e executable, mode string, v variant) program {
	command := []string{
		e.path, "--forward", fmt.Sprintf("tcp://%v=%v", gatewayAddress, backendAddress), "--trust", "127.0.0.0/8",
		"--loops", "1", "--max-connections", strconv.Itoa(c.most), "--max-waiting", "0", "--log-level", "error",
	}
	if mode == transparent {
		command = append(command, "--transparent")
	}
	if v.args == nil {
		v.args = []string{"--access-log", "off"}
	}
	return program{e.name + v.name, append(command, v.args...), true}
}

// other is the program of --peer.
func (c *catalogue) other(protocol string) program {
	with := strings.NewReplacer("{listen}", gatewayAddress.String(), "{backend}", backendAddress.String(), "{protocol}", protocol)
	return program{c.peer.name, strings.Fields(with.Replace(c.peer.command)), c.peer.headers}
}

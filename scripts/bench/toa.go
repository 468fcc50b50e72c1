package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"unproxy/transparent/toa/attach"
)

// toaSource is the address from which the gateway connects with --transparent toa. The
// backend refuses it without the option, so it must not be one of the load's addresses.
const toaSource = "127.0.1.77"

// toaGroup is a cgroup of the bench, with one for the gateway in it. Programs for the backend's port are
// attached to the first, those that send clients' addresses to the second.
type toaGroup struct{ before, own, gateway string }

// newTOAGroup moves this process into a new cgroup and attaches the programs. It needs root.
func newTOAGroup() (*toaGroup, error) {
	root, err := attach.Root()
	if err != nil {
		return nil, err
	}
	before, err := attach.Resolve(attach.Self)
	if err != nil {
		return nil, err
	}
	g := &toaGroup{before: before}
	if g.own, err = os.MkdirTemp(root, "unproxy-bench-"); err != nil {
		return nil, err
	}
	g.gateway = filepath.Join(g.own, "gateway")
	return g, g.attach()
}

func (g *toaGroup) attach() error {
	if err := os.Mkdir(g.gateway, 0o755); err != nil {
		return err
	}
	if err := enter(g.own); err != nil {
		return err
	}
	if err := g.attachServer(); err != nil {
		return err
	}
	_, err := attach.AttachGateway(g.gateway)
	return err
}

func (g *toaGroup) attachServer() error {
	from := netip.PrefixFrom(netip.MustParseAddr(toaSource), 32)
	_, err := attach.AttachServer(attach.ServerConfig{Cgroup: g.own, From: []netip.Prefix{from}, Ports: []uint16{backendAddress.Port()}})
	return err
}

// enter moves this process into a cgroup.
func enter(cgroup string) error {
	return os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// close moves this process back and removes the cgroups, and with them the programs.
func (g *toaGroup) close() {
	if g == nil || g.own == "" {
		return
	}
	enter(g.before)
	for _, path := range []string{g.gateway, g.own} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// carrying returns the command of a gateway that sends clients' addresses in a TCP option.
func (g *toaGroup) carrying(p program) program {
	p.name += ", toa"
	for i, word := range p.command {
		if word == "--transparent" {
			p.command[i] = "--transparent=toa"
		}
	}
	p.command = append([]string{"sh", "-c", "echo $$ >" + g.gateway + "/cgroup.procs; exec \"$@\"", "sh"}, p.command...)
	p.command = append(p.command, "--toa-source", toaSource, "--self-test-interval", "0")
	return p
}

// knowsTOA reports whether an unproxy has --transparent toa.
func knowsTOA(path string) bool {
	help, err := exec.Command(path, "serve", "--help").CombinedOutput()
	return err == nil && strings.Contains(string(help), "--toa-source")
}

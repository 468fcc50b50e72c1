package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"unproxy/scripts/bench/report"
)

// testCatalogue has programs that are never started.
func testCatalogue(t *testing.T) *catalogue {
	return &catalogue{
		self: "/bench", scratch: t.TempDir(), most: 9000,
		unproxy: []executable{{report.Base, "/unproxy"}, {"unproxy 2", "/other"}},
		haproxy: []executable{{"HAProxy 2.6", "/haproxy"}, {"HAProxy 3.5", "/haproxy-3.5"}},
		nginx:   []executable{{"nginx 1.22", "/nginx"}},
	}
}

// text returns a program's command line and its configuration file, if it has one.
func text(t *testing.T, p program) string {
	t.Helper()
	all := strings.Join(p.command, " ")
	for _, word := range p.command {
		if strings.HasSuffix(word, ".conf") {
			config, err := os.ReadFile(word)
			if err != nil {
				t.Fatal(err)
			}
			all += "\n" + string(config)
		}
	}
	return all
}

// Only in transparent mode each program is configured to use the client's address.
func TestOnlyTransparentModeUsesTheClientsAddress(t *testing.T) {
	c := testCatalogue(t)
	for program, word := range map[string]string{
		report.Base: "--transparent", "unproxy 2": "--transparent", "HAProxy 2.6": "usesrc clientip",
		"HAProxy 3.5": "usesrc clientip",
		"nginx 1.22":  "proxy_bind $proxy_protocol_addr transparent", "goroutines": " transparent",
	} {
		for _, mode := range []string{plain, transparent} {
			all, err := c.tcp(mode)
			if err != nil {
				t.Fatal(err)
			}
			said := text(t, named(t, all, program))
			if strings.Contains(said, word) != (mode == transparent) {
				t.Errorf("%s in %s mode has the configuration\n%s", program, mode, said)
			}
		}
	}
}

func named(t *testing.T, all []program, name string) program {
	t.Helper()
	i := slices.IndexFunc(all, func(p program) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("no program %s", name)
	}
	return all[i]
}

// The programs of a section have different names, unproxy is the first, and each listens
// where the load connects.
func TestPrograms(t *testing.T) {
	c := testCatalogue(t)
	for _, section := range sectionNames() {
		if section == "spin" {
			continue // runs the program
		}
		for _, mode := range []string{plain, transparent} {
			all, err := c.programs(section, mode)
			if err != nil {
				t.Fatal(err)
			}
			if all[0].name != report.Base {
				t.Errorf("%s begins with %s", section, all[0].name)
			}
			seen := map[string]bool{}
			for _, p := range all {
				if seen[p.name] {
					t.Errorf("%s has %s twice", section, p.name)
				}
				seen[p.name] = true
				if said := text(t, p); p.command != nil && p.command[0] != c.self &&
					!strings.Contains(said, gatewayAddress.String()) {
					t.Errorf("%s in %s does not listen on %v: %s", p.name, section, gatewayAddress, said)
				}
			}
		}
	}
}

// In the section of refusals each program trusts and denies the same addresses.
func TestRefusingProgramsHaveTheSameRules(t *testing.T) {
	all, err := testCatalogue(t).programs("refuse", plain)
	if err != nil {
		t.Fatal(err)
	}
	for program, words := range map[string][]string{
		report.Base:           {"--trust 127.0.0.0/24", "--deny-client 198.18.0.0/15", "--access-log off"},
		"unproxy 2":           {"--trust 127.0.0.0/24", "--deny-client 198.18.0.0/15", "--access-log off"},
		report.Base + ", log": {"--trust 127.0.0.0/24", "--deny-client 198.18.0.0/15", "--access-log all"},
		"HAProxy 3.5, reject": {"connection reject unless { src 127.0.0.0/24 }", "session reject if { src 198.18.0.0/15 }"},
	} {
		said := text(t, named(t, all, program))
		for _, word := range words {
			if !strings.Contains(said, word) {
				t.Errorf("%s has no %q: %s", program, word, said)
			}
		}
		if strings.Contains(said, "127.0.0.0/8") {
			t.Errorf("%s trusts everybody: %s", program, said)
		}
	}
}

func TestPeer(t *testing.T) {
	c := testCatalogue(t)
	c.peer = peerOptions{command: "mm -l {listen} -4 {backend} -p {protocol}", name: "mm", headers: true,
		transparent: true}
	all, err := c.tcp(transparent)
	if err != nil {
		t.Fatal(err)
	}
	p := named(t, all, "mm")
	if got := strings.Join(p.command, " "); got != "mm -l 127.0.0.1:2000 -4 127.0.0.1:3000 -p tcp" || !p.headers {
		t.Errorf("%q, %v", got, p.headers)
	}
	all, err = c.tcp(plain)
	if err != nil || slices.ContainsFunc(all, func(p program) bool { return p.name == "mm" }) {
		t.Errorf("a transparent peer is measured in plain mode: %v", err)
	}
	all, err = c.udp(transparent)
	if err != nil || !strings.HasSuffix(strings.Join(named(t, all, "mm").command, " "), "-p udp") {
		t.Errorf("UDP: %v, %v", all, err)
	}
}

func TestVersion(t *testing.T) {
	for said, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: long-term": "2.6",
		"HAProxy version 3.5-dev5-50872daa6 2026/08/21 - https://haproxy.org/\n":                "3.5",
		"nginx version: nginx/1.22.1\n": "1.22",
		"nothing":                       "of unknown version",
	} {
		if got := version(said); got != want {
			t.Errorf("%q: %s, not %s", said, got, want)
		}
	}
}

package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"unproxy/gateway/forward"
)

// hostAddress expands templates for a fake host.
func hostAddress(text string) (string, error) {
	switch text {
	case "{{ GetPrivateIP }}":
		return "10.0.0.5", nil
	case `{{ GetInterfaceIP "eth0,1=?" }}`:
		return "10.0.0.6", nil
	case "{{ six }}":
		return "fd00::2", nil
	case "{{ GetPrivateIPs }}":
		return "10.0.0.5 10.0.1.5", nil
	case "{{ none }}":
		return "", nil
	case "{{ word }}":
		return "eth0", nil
	}
	return "", errors.New("no such function")
}

func TestParseSpec(t *testing.T) {
	for _, tt := range []struct {
		spec string
		want string // each listener as NAME address[+] -> backends; "+" is dual stack
	}{
		{":8443=127.0.0.1:443", ":8443 [::]:8443+ -> 127.0.0.1:443"},
		{"tcp://:8443=127.0.0.1:443", ":8443 [::]:8443+ -> 127.0.0.1:443"},
		{"0.0.0.0:25=10.0.0.1:25", "0.0.0.0:25 0.0.0.0:25 -> 10.0.0.1:25"},
		{"[::]:25=[2001:db8::1]:25", "[::]:25 [::]:25+ -> [2001:db8::1]:25"},
		{"[::1]:0=127.0.0.1:22", "[::1]:0 [::1]:0 -> 127.0.0.1:22"},
		{"[::ffff:127.0.0.1]:80=[::ffff:10.0.0.1]:80", "[::ffff:127.0.0.1]:80 127.0.0.1:80 -> 10.0.0.1:80"},
		{":22=ssh.internal:22,10.0.0.2:22", ":22 [::]:22+ -> ssh.internal:22 10.0.0.2:22"},
		{":22=my_host.:22", ":22 [::]:22+ -> my_host.:22"},
		{":22=unix:/run/ssh.sock", ":22 [::]:22+ -> unix:/run/ssh.sock"},
		{"unix:/run/a.sock=127.0.0.1:22", "unix:/run/a.sock unix:/run/a.sock -> 127.0.0.1:22"},
		{":22=header", ":22 [::]:22+ -> header"},
		{"10.0.0.1:1-2=10.0.0.2:11-12", "10.0.0.1:1 10.0.0.1:1 -> 10.0.0.2:11\n10.0.0.1:2 10.0.0.1:2 -> 10.0.0.2:12"},
		{"10.0.0.1:1-2=10.0.0.2:9,a.b:3-4,unix:/s", "10.0.0.1:1 10.0.0.1:1 -> 10.0.0.2:9 a.b:3 unix:/s\n10.0.0.1:2 10.0.0.1:2 -> 10.0.0.2:9 a.b:4 unix:/s"},
		{":1-2=header", ":1 [::]:1+ -> header\n:2 [::]:2+ -> header"},
		{"{{ GetPrivateIP }}:443=127.0.0.1:22", "10.0.0.5:443 10.0.0.5:443 -> 127.0.0.1:22"},
		{`{{ GetInterfaceIP "eth0,1=?" }}:443=127.0.0.1:22`, "10.0.0.6:443 10.0.0.6:443 -> 127.0.0.1:22"},
		{"{{ six }}:443=127.0.0.1:22", "[fd00::2]:443 [fd00::2]:443 -> 127.0.0.1:22"},
		{"[{{ six }}]:443=127.0.0.1:22", "[fd00::2]:443 [fd00::2]:443 -> 127.0.0.1:22"},
		{":65535=127.0.0.1:65535", ":65535 [::]:65535+ -> 127.0.0.1:65535"},
		{":65534-65535=127.0.0.1:1-2", ":65534 [::]:65534+ -> 127.0.0.1:1\n:65535 [::]:65535+ -> 127.0.0.1:2"},
		{":7-7=127.0.0.1:8-8", ":7 [::]:7+ -> 127.0.0.1:8"},
		{":22=127.0.0.1:22,255.255.255.254:22", ":22 [::]:22+ -> 127.0.0.1:22 255.255.255.254:22"},
		{"unix:/a://b=127.0.0.1:22", "unix:/a://b unix:/a://b -> 127.0.0.1:22"},
		{"systemd:~!=127.0.0.1:22", "systemd:~! invalid AddrPort -> 127.0.0.1:22"},
	} {
		f, err := parseSpec(tt.spec, hostAddress)
		if err != nil {
			t.Errorf("parseSpec(%q) failed: %v", tt.spec, err)
			continue
		}
		if got := describe(f.listeners); got != tt.want {
			t.Errorf("parseSpec(%q)\n got %s\nwant %s", tt.spec, got, tt.want)
		}
	}
}

// The name of a forward is its LISTEN, with one name for a range.
func TestNameOfAForward(t *testing.T) {
	for spec, want := range map[string]string{
		":8443=127.0.0.1:443":                         ":8443",
		"tcp://10.0.0.1:1-2=10.0.0.2:11-12?headers=2": "10.0.0.1:1-2",
		"unix:/run/a.sock=127.0.0.1:22":               "unix:/run/a.sock",
		"{{ six }}:443=127.0.0.1:22":                  "[fd00::2]:443",
	} {
		f, err := parseSpec(spec, hostAddress)
		if err != nil || f.name != want {
			t.Errorf("parseSpec(%q) has the name %q, %v; want %q", spec, f.name, err, want)
		}
	}
	c, _, err := Load(Source{Forwards: []string{":1-2=127.0.0.1:11-12"}, Settings: Values{"trust": {"10.0.0.0/8"}}})
	if err != nil || c.Forwards[0].Name != ":1-2" {
		t.Errorf("Load: %+v, %v", c, err)
	}
}

func describe(listeners []forward.Listener) string {
	var lines []string
	for _, l := range listeners {
		line := l.Name + " " + l.Endpoint.String()
		if l.DualStack {
			line += "+"
		}
		line += " ->"
		for _, b := range l.Backends {
			line += " " + backendText(b)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func backendText(b forward.Backend) string {
	switch {
	case b.FromHeader:
		return "header"
	case b.Host != "":
		return fmt.Sprintf("%s:%d", b.Host, b.Port)
	}
	return b.Endpoint.String()
}

func TestParseSpecRejects(t *testing.T) {
	for _, tt := range []struct{ spec, want, hint string }{
		{"", "is not LISTEN=BACKEND", "--forward LISTEN=BACKEND"},
		{"8443", "is not LISTEN=BACKEND", "--forward LISTEN=BACKEND"},
		{":8443", "is not LISTEN=BACKEND", "--forward :8443=127.0.0.1:PORT"},
		{":8443=", "has no backend", "LISTEN=BACKEND"},
		{"=127.0.0.1:1", "is not LISTEN=BACKEND", "LISTEN=BACKEND"},
		{"http://:80=127.0.0.1:80", `unknown scheme "http"`, "--forward :80=127.0.0.1:80"},
		{"udp://tcp://:53=127.0.0.1:53", "two ports", ""},
		{"udp://systemd:dns=127.0.0.1:53", "systemd cannot hand over UDP sockets", "udp://:5300"},
		{"8443=127.0.0.1:443", `listener "8443" has no port`, ":8443"},
		{"10.0.0.1=127.0.0.1:443", `listener "10.0.0.1" has no port`, "10.0.0.1:8443"},
		{"2001:db8::1:443=127.0.0.1:443", "IPv6 address without brackets", "[2001:db8::1:443]:8443"},
		{"localhost:80=127.0.0.1:8080", `"localhost" is not an IP address`, "127.0.0.1:80, or [::1]:80"},
		{"example.com:80=127.0.0.1:8080", `"example.com" is not an IP address`, "10.0.0.5:80"},
		{"*:80=127.0.0.1:8080", `"*" is not an IP address`, ":80"},
		{"[10.0.0.1]:80=127.0.0.1:8080", "is not an IP address", ""},
		{"224.0.0.1:80=127.0.0.1:8080", "multicast", ""},
		{"[fe80::1%eth0]:80=127.0.0.1:8080", "has a zone", ":PORT"},
		{":65536=127.0.0.1:1", `port "65536"`, ""},
		{":http=127.0.0.1:1", `port "http"`, ""},
		{":9-8=127.0.0.1:1", "not above the last", ""},
		{":0-8=127.0.0.1:1", "must be above 0", ""},
		{":8-=127.0.0.1:1", `port ""`, ""},
		{"unix:a.sock=127.0.0.1:1", "not an absolute path", "unix:/run/unproxy/NAME.sock"},
		{"unix:@a=127.0.0.1:1", "abstract namespace", "unix:/run/unproxy/a.sock"},
		{"unix:/" + strings.Repeat("x", 107) + "=127.0.0.1:1", "the maximum is 107", ""},
		// systemd.socket(5), FileDescriptorName=.
		{"systemd:=127.0.0.1:1", "systemd does not allow this name", "systemd:NAME"},
		{"systemd:a:b=127.0.0.1:1", "systemd does not allow this name", "systemd:NAME"},
		{"{{ GetPrivateIPs }}:1=127.0.0.1:1", "yields 2 addresses", ""},
		{"{{ none }}:1=127.0.0.1:1", "yields 0 addresses", ""},
		{"{{ word }}:1=127.0.0.1:1", "which is not an IP address", ""},
		{"{{ nonsense }}:1=127.0.0.1:1", "no such function", "go-sockaddr"},
		{"}}{{ GetPrivateIP }}:1=127.0.0.1:1", `"}}10.0.0.5" is not an IP address`, ""},
		{"{{ GetPrivateIP }}{{ GetPrivateIP }}:1=127.0.0.1:1", `"10.0.0.510.0.0.5" is not an IP address`, ""},
		{"{{ six }}x:1=127.0.0.1:1", "is an IPv6 address without brackets, or has two ports", ""},
		{"[::1:80=127.0.0.1:1", "is an IPv6 address without brackets, or has two ports", ""},
		{"::1]:80=127.0.0.1:1", "is an IPv6 address without brackets, or has two ports", ""},
		{"[::1]:80:90=127.0.0.1:1", "is an IPv6 address without brackets, or has two ports", ""},
		{"[::1]=127.0.0.1:1", `listener "[::1]" has no port`, "a listener is HOST:PORT"},
		{"::1=127.0.0.1:1", `listener "::1" has no port`, "[::1]:8443"},
		{"80-81=127.0.0.1:1", `listener "80-81" has no port`, "write :80-81 to listen on all addresses"},
		{":-1=127.0.0.1:1", `has a port ""`, ""},
		{":1-65536=127.0.0.1:1", `has a port "65536" that is not a number from 0 to 65535`, ""},
		{":0-0=127.0.0.1:1", "must be above 0", ""},
		{"[ff02::1]:80=127.0.0.1:1", "is a multicast address", ""},
		{"unix:/a\x00b=127.0.0.1:1", "contains a zero byte", ""},
		{"systemd:a b=127.0.0.1:1", "systemd does not allow this name", "systemd:NAME"},
		{"systemd:a\x7f=127.0.0.1:1", "systemd does not allow this name", "systemd:NAME"},
		{"systemd:" + strings.Repeat("x", 256) + "=127.0.0.1:1", "systemd does not allow this name", "systemd:NAME"},
		{"?a=127.0.0.1:1", `listener "?a" has no port`, "a listener is HOST:PORT"},
		{":1?a=127.0.0.1:1", `listener ":1?a" has a port "1?a"`, ""},
		{"nowhere:1=10.0.0.1:1-2", `"nowhere" is not an IP address`, "10.0.0.5:1"},
		{"224.0.0.1:1-3=10.0.0.1:1-2", "is a multicast address", ""},
		{"[fe80::1%eth0]:1-3=10.0.0.1:1-2", "has a zone", ""},
		{"systemd:a b=10.0.0.1:1-2", "systemd does not allow this name", ""},
		{"unix:a=10.0.0.1:1-2", "not an absolute path", ""},
		{"unix:/a=10.0.0.1:1-2", "has 2 ports, the listener has 1", "same length"},
		{":1-3=:1-2", "has no host", ""},
		{":1-3=a b:1-2", "neither an address nor a host name", ""},
		{":1-3=0.0.0.0:1-2", "not an address to connect to", ""},
		{":1-3=224.0.0.1:1-2", "is a multicast or broadcast address", ""},
		{":1-3=[fe80::1%eth0]:1-2", "has a zone", ""},
		{":1=22-23", `backend "22-23" has no port`, "127.0.0.1:22-23"},
		{":1=a", `backend "a" has no port`, "a backend is HOST:PORT"},
		{":1=2001:db8::1", "has no port", "add a port: [2001:db8::1]:PORT"},
		{":1=224.0.0.1:22", "is a multicast or broadcast address", ""},
		{":1=[ff02::1]:22", "is a multicast or broadcast address", ""},
		{":1=[fe80::1%eth0]:22", "has a zone", "another address"},
		{":1=[10.0.0.1]:22", "neither an address nor a host name", ""},
		{":1=127.0.0.1", `backend "127.0.0.1" has no port`, "127.0.0.1:PORT"},
		{":1=::1", "has no port", "[::1]:PORT"},
		{":1=22", `backend "22" has no port`, "127.0.0.1:22"},
		{":1=:22", "has no host", "127.0.0.1:22"},
		{":1=127.0.0.1:0", "has port 0", ""},
		{":1=0.0.0.0:22", "not an address to connect to", "127.0.0.1:22"},
		{":1=[::]:22", "not an address to connect to", "127.0.0.1:22"},
		{":1=255.255.255.255:22", "broadcast", ""},
		{":1=256.0.0.1:22", "neither an address nor a host name", ""},
		{":1=10.0.0:22", "neither an address nor a host name", ""},
		{":1=a b:22", "neither an address nor a host name", ""},
		{":1=-a:22", "neither an address nor a host name", ""},
		{":1=https://a:22/", "has a scheme", "a:22"},
		{":1={{ GetPrivateIP }}:22", "is a template", "LISTEN"},
		{":1=unix:s", "not an absolute path", ""},
		{":1=header,127.0.0.1:2", "cannot be combined with others", "LISTEN=header"},
		{":1=127.0.0.1:2,", `backend "" has no port`, ""},
		{":1-3=127.0.0.1:1-2", "has 2 ports, the listener has 3", "same length"},
		{":1=127.0.0.1:1-2", "has 2 ports, the listener has 1", "same length"},
		{":1=127.0.0.1:2?", "nothing follows the question mark", ""},
		{":1=127.0.0.1:2?--local=close", "key", "?local"},
		{":1=127.0.0.1:2?local=close&", "a key has no name", "KEY=VALUE"},
	} {
		_, err := parseSpec(tt.spec, hostAddress)
		if err == nil {
			t.Errorf("parseSpec(%q) succeeded; want %q", tt.spec, tt.want)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || len(Leaves(err)) != 1 {
			t.Errorf("parseSpec(%q) = %v; want %q", tt.spec, err, tt.want)
		}
		var p *Problem
		if !errors.As(err, &p) || !strings.Contains(p.Hint(), tt.hint) {
			t.Errorf("parseSpec(%q): hint %q; want %q", tt.spec, p.Hint(), tt.hint)
		}
	}
}

// A template without an end is one, whatever follows.
func TestTemplateWithoutEnd(t *testing.T) {
	for _, text := range []string{"{{ GetPrivateIP", "}}{{", "{{ GetPrivateIP }}{{ x :1"} {
		if got, err := expandTemplates(text, hostAddress); err == nil || !strings.Contains(err.Error(), "is never closed") {
			t.Errorf("%q becomes %q, %v", text, got, err)
		}
	}
}

// A path, a systemd name and a host name may be as long as the kernel, systemd and DNS permit.
func TestLongestNames(t *testing.T) {
	label := strings.Repeat("x", 63)
	host := strings.Join([]string{label, label, label, label[:61]}, ".") // 253 bytes
	for spec, want := range map[string]string{
		"unix:/" + strings.Repeat("x", 106) + "=127.0.0.1:1": "",
		"unix:/" + strings.Repeat("x", 107) + "=127.0.0.1:1": "is 108 bytes long, the maximum is 107",
		":1=unix:/" + strings.Repeat("x", 106):               "",
		":1=unix:/" + strings.Repeat("x", 107):               "the maximum is 107",
		"systemd:" + strings.Repeat("x", 255) + "=unix:/a":   "",
		":1=" + host + ":1":                                  "",
		":1=" + host + ".:1":                                 "",
		":1=" + host + "x:1":                                 "neither an address nor a host name",
		":1=" + label + "x.a:1":                              "neither an address nor a host name",
		":1=" + label + ".a:1":                               "",
	} {
		_, err := parseSpec(spec, hostAddress)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("parseSpec(%q): %v; want %q", spec, err, want)
		}
	}
}

// A host name consists of letters, digits, hyphens and underscores (RFC 1123; the last as in
// names of containers). A number at its end makes it an IPv4 address.
func TestHostNames(t *testing.T) {
	for _, name := range []string{"a", "z", "A", "Z", "azAZ09_", "a-b", "_a", "a_", "1.a", "a.b.c", "a.1b", "a."} {
		if _, err := parseSpec(":1="+name+":2", hostAddress); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"`a", "a{", "@a", "a[b", "a/b", "a^b", "a+b", "-a", "a-", "b.-a", "b-.a", "a..b", ".a", ".", "a.1", "a.09", "0", "é"} {
		if _, err := parseSpec(":1="+name+":2", hostAddress); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestParseSpecReportsAllProblems(t *testing.T) {
	_, err := parseSpec("nowhere:1=0.0.0.0:2,::3?--x", hostAddress)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 4 {
		t.Errorf("four faults, but the error is: %v", err)
	}
}

func TestParseSpecKeys(t *testing.T) {
	f, err := parseSpec(":1=127.0.0.1:2?transparent&trust=10.0.0.0/8&trust={{ a & b }}/32&accept=v1,v2", hostAddress)
	if err != nil {
		t.Fatal(err)
	}
	want := "map[accept:[v1,v2] transparent:[] trust:[10.0.0.0/8 {{ a & b }}/32]]"
	if got := fmt.Sprint(f.settings); got != want {
		t.Errorf("keys %s; want %s", got, want)
	}
}

// FuzzParseSpec checks that the parser does not panic, that an error consists of
// problems of one line each, and that an accepted SPEC has listeners with backends
// and a name that parses to the same listener.
func FuzzParseSpec(f *testing.F) {
	for _, seed := range []string{
		":8443=127.0.0.1:443", "tcp://[::]:1-3=a.b:4-6,unix:/x?trust=any&transparent",
		"{{ GetPrivateIP }}:443=header?allow-destination=10.0.0.0/8", "unix:/a=[2001:db8::1]:1", "udp://:1=:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		if strings.Count(spec, "-") > 3 {
			return // wide ranges take long and cover no other code
		}
		got, err := parseSpec(spec, hostAddress)
		if err != nil {
			return
		}
		if len(got.listeners) == 0 {
			t.Fatalf("parseSpec(%q) has no listener", spec)
		}
		for _, l := range got.listeners {
			if len(l.Backends) == 0 {
				t.Fatalf("parseSpec(%q): %s has no backend", spec, l.Name)
			}
			again, err := parseSpec(l.Name+"="+backendText(l.Backends[0]), hostAddress)
			if err != nil {
				t.Fatalf("parseSpec(%q) gives %s to %s, which does not parse: %v", spec, l.Name, backendText(l.Backends[0]), err)
			}
			if again.listeners[0].Endpoint != l.Endpoint || again.listeners[0].Backends[0] != l.Backends[0] {
				t.Fatalf("parseSpec(%q) gives %v, which reads back as %v", spec, l, again.listeners[0])
			}
		}
	})
}

package main

import "fmt"

// module is a package in the picture of the packages, or several that share a
// box.
type module struct {
	name, note string
	x, row     int      // the middle of its box, and the row from the top
	paths      []string // import paths below the module's
}

// modules are the packages of the program.
var modules = []module{
	{"main.go", "exit code", 400, 0, []string{""}},
	{"command", "command line", 400, 1, []string{"gateway/command"}},
	{"daemon", "the process", 400, 3, []string{"gateway/daemon"}},
	{"command/…", "usage, probe, demo, decode, migrate, toa", 640, 2,
		[]string{"gateway/command/usage", "gateway/command/probe", "gateway/command/demo", "gateway/command/decode",
			"gateway/command/migrate", "gateway/command/toa"}},
	{"admin", "HTTP, page", 330, 4, []string{"gateway/admin"}},
	{"gateway", "life", 490, 4, []string{"gateway"}},
	{"doctor", "host checks", 740, 4, []string{"gateway/doctor"}},
	{"supervise", "systemd", 410, 5, []string{"gateway/supervise"}},
	{"accesslog", "log lines", 90, 5, []string{"gateway/accesslog"}},
	{"readiness", "reasons", 520, 5, []string{"gateway/readiness"}},
	{"datagram", "UDP", 285, 5, []string{"gateway/datagram"}},
	{"config", "words to nouns", 660, 5, []string{"gateway/config"}},
	{"engine", "TCP", 270, 6, []string{"gateway/engine"}},
	{"value", "flag values", 560, 6, []string{"gateway/config/value"}},
	{"routing", "netlink, nft", 824, 6, []string{"transparent/routing"}},
	{"record", "outcomes", 90, 8, []string{"gateway/record"}},
	{"kernel", "system calls", 210, 7, []string{"gateway/kernel"}},
	{"clients", "who is served", 330, 7, []string{"gateway/clients"}},
	{"limit", "rates", 330, 8, []string{"gateway/limit"}},
	{"ban", "bans", 590, 7, []string{"gateway/ban"}},
	{"source", "own addresses", 470, 7, []string{"gateway/source"}},
	{"trust", "rules, sets", 706, 7, []string{"trust"}},
	{"returnpath", "plan as data", 818, 7, []string{"transparent/returnpath"}},
	{"forward", "nouns", 430, 9, []string{"gateway/forward"}},
	{"attach", "BPF programs", 824, 3, []string{"transparent/toa/attach"}},
	{"toa", "TCP option", 120, 10, []string{"transparent/toa"}},
	{"transparent", "foreign addresses", 250, 10, []string{"transparent"}},
	{"proxyproto", "headers", 430, 10, []string{"gateway/proxyproto"}},
	{"sandbox", "privileges", 570, 10, []string{"gateway/sandbox"}},
}

// imports are the arrows: the imports that show how the program is built.
var imports = [][2]string{
	{"main.go", "command"}, {"command", "daemon"}, {"command", "command/…"}, {"command/…", "daemon"}, {"command/…", "attach"},
	{"daemon", "accesslog"}, {"daemon", "admin"}, {"daemon", "gateway"}, {"daemon", "doctor"},
	{"admin", "datagram"}, {"admin", "readiness"}, {"admin", "config"},
	{"gateway", "datagram"}, {"gateway", "supervise"}, {"gateway", "config"},
	{"doctor", "readiness"}, {"doctor", "config"}, {"doctor", "routing"},
	{"accesslog", "record"}, {"datagram", "engine"},
	{"config", "value"}, {"config", "trust"}, {"config", "returnpath"}, {"config", "forward"},
	{"engine", "record"}, {"engine", "kernel"}, {"engine", "clients"}, {"engine", "source"}, {"clients", "limit"},
	{"limit", "forward"}, {"config", "ban"}, {"routing", "returnpath"},
	{"kernel", "transparent"}, {"forward", "transparent"}, {"forward", "proxyproto"},
}

const (
	rowHeight    = 72
	moduleHeight = 44
)

// area returns where the box of m is.
func (m module) area() area {
	w := max(textWidth("name", m.name), textWidth("note", m.note)) + 16
	return area{m.x - w/2, 14 + m.row*rowHeight, w, moduleHeight}
}

// packages is the picture of docs/architecture.md.
func packages() *picture {
	p := &picture{name: "packages", title: "The packages and their imports", height: 11*rowHeight + 40,
		description: "Each package imports only packages below it: command and daemon at the top, the life of a " +
			"gateway, its configuration, the data planes, and the vocabulary and pure packages at the bottom."}
	for _, i := range imports {
		from, to := find(i[0]), find(i[1])
		start, end := from.area(), to.area()
		way := fmt.Sprintf("M%d %d L%d %d", from.x, start.y+start.h, to.x, end.y-2)
		if to.row-from.row > 2 { // past the boxes in between
			way = fmt.Sprintf("M%d %d V%d H%d", from.x-20, start.y+start.h, end.y+end.h/2, end.x+end.w+2)
		}
		p.arrow("imports", way)
	}
	for _, m := range modules {
		class := "box"
		switch m.name {
		case "engine", "datagram", "kernel", "limit", "source":
			class = "own"
		}
		a := m.area()
		p.frame(class, a, 8)
		p.text("name", m.x, a.y+19, "middle", m.name)
		p.text("note", m.x, a.y+36, "middle", m.note)
	}
	p.text("note", 440, p.height-14, "middle", "An arrow is an import. The main ones are drawn; all of them "+
		"lead down. Blue: the data plane.")
	return p
}

// find returns a module by its name; the zero module if there is none.
func find(name string) module {
	for _, m := range modules {
		if m.name == name {
			return m
		}
	}
	return module{}
}

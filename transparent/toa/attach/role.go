package attach

import (
	_ "embed"

	"github.com/cilium/ebpf"
)

// Role is the host on which programs are attached. The zero value is [Server].
type Role int

// The roles.
const (
	Server  Role = iota // the backend's host
	Gateway             // the gateway's
)

// String returns the role as messages name it.
func (r Role) String() string {
	if r == Gateway {
		return "gateway"
	}
	return "server"
}

//go:embed server.o
var serverObject []byte

//go:embed gateway.o
var gatewayObject []byte

//go:embed listeners.o
var listenersObject []byte

// object returns the compiled programs of a role.
func (r Role) object() []byte {
	if r == Gateway {
		return gatewayObject
	}
	return serverObject
}

// hook is a program and where it is attached.
type hook struct {
	program string
	at      ebpf.AttachType
}

var serverHooks = [...]hook{
	{"unproxy_peer4", ebpf.AttachCgroupInet4GetPeername},
	{"unproxy_peer6", ebpf.AttachCgroupInet6GetPeername},
	{"unproxy_gate", ebpf.AttachCGroupInetIngress},
	{"unproxy_promise", ebpf.AttachCGroupSockOps},
}

var gatewayHooks = [...]hook{
	{"unproxy_answer", ebpf.AttachCGroupGetsockopt},
	{"unproxy_option", ebpf.AttachCGroupSockOps},
	{"unproxy_client", ebpf.AttachCGroupSetsockopt},
}

// hooks returns the programs of a role in the order in which to attach them: what makes
// the others take effect comes last.
func (r Role) hooks() []hook {
	if r == Gateway {
		return gatewayHooks[:]
	}
	return serverHooks[:]
}

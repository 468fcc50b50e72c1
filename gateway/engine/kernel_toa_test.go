package engine

import (
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/transparent/toa"
)

// clientOptions is what the programs on the gateway's host keep for a socket.
type clientOptions struct {
	client       toa.Record
	hasClient    bool
	acknowledged bool // what the test wants the backend to have done
	asked        int  // ClientState calls since the connection is established
}

// SetClient needs programs, and a socket that is not connected.
func (k *script) SetClient(fd int, v toa.Value) syscall.Errno {
	f := k.file(fd, "SetClient", stream)
	if !k.programs {
		return unix.ENOPROTOOPT
	}
	r, ok := v.Record()
	if !ok || f.connecting || f.connected {
		k.Errorf("SetClient of descriptor %d: % x", fd, v)
		return unix.EPERM
	}
	f.client, f.hasClient = r, true
	return 0
}

// ClientState is late by as many calls as the plan says, as on another CPU (isPromisedFinally).
func (k *script) ClientState(fd int) (r toa.Reply, errno syscall.Errno) {
	f := k.file(fd, "ClientState", stream)
	switch {
	case !k.programs:
		return r, unix.EOPNOTSUPP
	case !f.hasClient:
		k.Errorf("ClientState of descriptor %d, which has no client", fd)
		return r, unix.EPERM
	}
	if f.connected {
		if f.asked++; f.plan.promises && f.asked > f.plan.late {
			r[0] = 1
		}
	}
	if f.acknowledged {
		r[1] = 1
	}
	return r, 0
}

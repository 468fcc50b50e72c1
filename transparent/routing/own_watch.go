package routing

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrEventsLost is the error of [AddressWatch.Wait] after the kernel has dropped
// events because they came faster than they were read.
var ErrEventsLost = errors.New("events about the host's addresses were lost")

// AddressWatch waits for events that may change the result of [OwnAddresses]. Only
// Close may be called concurrently.
type AddressWatch struct{ socket *nl.NetlinkSocket }

// WatchAddresses subscribes to the events of this host's addresses, interfaces,
// routes and routing rules. Call it before OwnAddresses, so that no change is
// missed. It needs no capability.
func WatchAddresses() (*AddressWatch, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, failed("ip monitor", os.NewSyscallError("netlink", err))
	}
	// Without the filter, the events of ordinary routes are read and ignored.
	unix.SetsockoptSockFprog(socket.GetFd(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, typedRoutesOnly())
	return &AddressWatch{socket}, nil
}

// typedRoutesOnly is a packet filter that drops the events of unicast routes, which a
// routing daemon may cause by the thousand.
func typedRoutesOnly() *unix.SockFprog {
	const load, jumpEqual = unix.BPF_LD | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	const end = unix.BPF_RET | unix.BPF_K
	// Netlink headers are in the host's byte order, which the filter does not know.
	hostOrder := func(v uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
	}
	const messageType, routeType = 4, unix.SizeofNlMsghdr + 7
	filter := []unix.SockFilter{
		{Code: load | unix.BPF_H, K: messageType},
		{Code: jumpEqual, Jt: 1, K: hostOrder(unix.RTM_NEWROUTE)},
		{Code: jumpEqual, Jf: 2, K: hostOrder(unix.RTM_DELROUTE)},
		{Code: load | unix.BPF_B, K: routeType},
		{Code: jumpEqual, Jt: 1, K: unix.RTN_UNICAST},
		{Code: end, K: ^uint32(0)},
		{Code: end, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
}

// Wait returns after an event that matters, or after the timeout. After
// [ErrEventsLost] the watch continues. After any other error, such as that of Close,
// it cannot be used any more.
func (w *AddressWatch) Wait(timeout time.Duration) error {
	for {
		matters, err := w.receive(timeout)
		if matters || err != nil {
			return watchError(err)
		}
	}
}

// Collect reads events for a time and reports whether one of them matters. Its errors
// are those of Wait.
func (w *AddressWatch) Collect(d time.Duration) (any bool, err error) {
	end := time.Now().Add(d)
	for left := d; left > 0; left = time.Until(end) {
		matters, err := w.receive(left)
		if err != nil {
			return any, watchError(err)
		}
		any = any || matters
	}
	return any, nil
}

// watchError converts an error of receive to that of the methods above.
func watchError(err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN): // the timeout
		return nil
	case errors.Is(err, unix.ENOBUFS):
		return ErrEventsLost
	}
	return failed("ip monitor", err)
}

// receive reads some events and reports whether one of them matters. The error is
// EAGAIN after the timeout.
func (w *AddressWatch) receive(timeout time.Duration) (matters bool, err error) {
	limit := unix.NsecToTimeval(max(timeout, time.Microsecond).Nanoseconds())
	if err := w.socket.SetReceiveTimeout(&limit); err != nil {
		return false, err
	}
	messages, from, err := w.socket.Receive()
	if err != nil {
		return false, err
	}
	if from.Pid != nl.PidKernel {
		return false, nil
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			_, typed := readTyped(m.Data)
			matters = matters || typed
		default:
			matters = true
		}
	}
	return matters, nil
}

// Close ends the watch, and a Wait that is under way.
func (w *AddressWatch) Close() { w.socket.Close() }

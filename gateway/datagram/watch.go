package datagram

import (
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
)

const (
	// mostFailures is how often in a row receiving from a listener may fail. The event repeats at once,
	// so an error that lasts would keep the CPU busy.
	mostFailures = 64
	// receivePause is how long a listener is left alone then. Its datagrams wait in the kernel's queue.
	receivePause = int64(100 * time.Millisecond)
)

// watchListeners receives from all listeners.
func (w *worker) watchListeners() {
	for _, ls := range w.listeners {
		w.watchListener(ls)
	}
}

func (w *worker) watchListener(ls *listenerSocket) {
	ls.paused = 0
	number := slices.Index(w.listeners, ls) + 1
	if errno := w.host.Watch(ls.fd, unix.EPOLLIN, uint64(number)); errno != 0 && errno != unix.EEXIST {
		w.pauseListener(ls, os.NewSyscallError("epoll_ctl", errno))
	}
}

// receiveFailed handles an error of a listener: its queue is empty, or the event repeats.
func (w *worker) receiveFailed(ls *listenerSocket, errno syscall.Errno) {
	if errno == unix.EAGAIN {
		w.receiveWorks(ls)
		return
	}
	if ls.failures++; ls.failures >= mostFailures {
		w.host.Unwatch(ls.fd)
		w.pauseListener(ls, os.NewSyscallError("recvmmsg", errno))
	}
}

// receiveWorks notes that a listener returned datagrams, or that its queue is empty.
func (w *worker) receiveWorks(ls *listenerSocket) {
	ls.failures = 0
	if ls.reported {
		ls.reported = false
		w.notice(engine.Notice{Event: "receive_recovered", Forward: ls.Listener.Name, Of: ls.Forward})
	}
}

// pauseListener receives nothing from a listener for a while, because a call failed. It reports that
// once until the listener works.
func (w *worker) pauseListener(ls *listenerSocket, err error) {
	ls.failures, ls.paused = 0, w.host.Now()+receivePause
	w.wakeAt(ls.paused)
	if ls.reported {
		return
	}
	ls.reported = true
	w.notice(engine.Notice{Event: "receive_failed", Forward: ls.Listener.Name, Of: ls.Forward, Err: err})
}

// rewatchListeners ends the pauses that are over. It receives, because an empty queue raises no event
// that would show that the listener works again.
func (w *worker) rewatchListeners() {
	for _, ls := range w.listeners {
		switch {
		case ls.paused == 0:
		case ls.paused > w.host.Now():
			w.wakeAt(ls.paused)
		default:
			if w.watchListener(ls); ls.paused == 0 {
				w.receive(ls)
			}
		}
	}
}

package supervise

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostPassed is the maximum number of descriptors in a message (SCM_MAX_FD,
	// unix(7)).
	mostPassed = 253
	// mostMessage is the maximum length of a message and of an answer.
	mostMessage = 64 << 10
)

// Exchange sends a message with copies of descriptors to the child, and returns its
// answer. Call it after AwaitReady and before Commit. A message has at most 253
// descriptors and 64 KiB. After an error the child has ended.
func (c *Child) Exchange(message []byte, fds []int, until time.Time) (answer []byte, err error) {
	if answer, err = c.exchange(message, fds, until); err != nil {
		return nil, c.end(err, "meanwhile")
	}
	return answer, nil
}

func (c *Child) exchange(message []byte, fds []int, until time.Time) (answer []byte, err error) {
	if err := c.channel.SetDeadline(until); err != nil {
		return nil, fmt.Errorf("send a message to the new process: %w", err)
	}
	if err := c.send(message, fds); err != nil {
		return nil, fmt.Errorf("send a message to the new process: %w", err)
	}
	answer = make([]byte, mostMessage)
	n, err := c.channel.Read(answer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errors.New("the new process did not answer in time")
	}
	return answer[:n], err
}

func (c *Child) send(message []byte, fds []int) error {
	raw, err := c.channel.SyscallConn()
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		failed = unix.Sendmsg(int(fd), message, rights, nil, unix.MSG_NOSIGNAL)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err == nil {
		err = os.NewSyscallError("sendmsg", failed)
	}
	return err
}

// answer answers every message of the parent until it closes the channel.
func (p *Parent) answer(take func(message []byte, fds []int) (answer []byte)) error {
	message := make([]byte, mostMessage)
	for {
		n, fds, err := p.receive(message)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if _, err := p.channel.Write(take(message[:n], fds)); err != nil {
			return err
		}
	}
}

// receive receives a message and its descriptors; n is 0 at the end of the channel.
func (p *Parent) receive(message []byte) (n int, fds []int, err error) {
	raw, err := p.channel.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	rights := make([]byte, unix.CmsgSpace(4*mostPassed))
	var length int
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		for failed = unix.EINTR; failed == unix.EINTR; {
			n, length, _, _, failed = unix.Recvmsg(int(fd), message, rights, unix.MSG_CMSG_CLOEXEC)
		}
		return true // the channel is blocking
	})
	if err == nil && failed != nil {
		err = os.NewSyscallError("recvmsg", failed)
	}
	if err != nil {
		return 0, nil, err
	}
	fds, err = passed(rights[:length])
	return n, fds, err
}

// passed returns the descriptors in the control data of a message.
func passed(control []byte) (all []int, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return all, os.NewSyscallError("recvmsg", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}

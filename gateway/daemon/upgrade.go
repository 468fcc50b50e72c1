package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/datagram"
	"unproxy/gateway/sandbox"
	"unproxy/gateway/supervise"
)

// upgrade starts the process that takes over, with copies of the listening sockets.
// Connections in their queues are accepted by either process.
func (l *life) upgrade() {
	if reason := l.noUpgrade(); reason != "" {
		l.log.Warn().Str("reason", reason).Msg("upgrade refused")
		return
	}
	child, err := l.startSuccessor()
	if err != nil {
		l.upgradeFailed(err)
		return
	}
	l.log.Info().Str("program", l.program.Path).Int("child", child.PID).
		Msg("upgrade: started the new process")
	l.successor = child
	go func() { l.upgraded <- l.handFlows(child) }()
}

// upgraded is the result of an upgrade: the handover of the UDP flows, or the error
// that ended the upgrade.
type upgraded struct {
	flows *datagram.Handover
	err   error
}

// mostStill limits the time for which datagrams wait in the kernel's queues during the
// handover of flows, unless --upgrade-timeout is shorter. Thousands of flows take
// milliseconds.
const mostStill = 10 * time.Second

// handFlows waits until the child serves, and passes it the UDP flows. After an error
// the child has ended, and the flows continue in this process.
func (d *daemon) handFlows(child *supervise.Child) upgraded {
	if err := child.AwaitReady(d.config.Gateway.UpgradeTimeout); err != nil {
		return upgraded{err: err}
	}
	until := time.Now().Add(min(mostStill, d.config.Gateway.UpgradeTimeout))
	ctx, cancel := context.WithDeadlineCause(context.Background(), until, errStalled)
	defer cancel()
	if err := d.handBans(child, until); err != nil {
		return upgraded{err: err}
	}
	flows, err := d.gateway.HandOverFlows(ctx, func(message []byte, fds []int) ([]byte, error) {
		return child.Exchange(message, fds, until)
	})
	if err != nil {
		child.End()
		return upgraded{err: fmt.Errorf("hand over UDP flows: %w", err)}
	}
	return upgraded{flows: flows}
}

var errStalled = errors.New("an event loop did not answer in time")

// noUpgrade returns why an upgrade is not possible now, or "".
func (l *life) noUpgrade() string {
	switch {
	case l.draining():
		return "the gateway is draining"
	case l.successor != nil:
		return "an upgrade is in progress"
	case !l.serving:
		return "this process is not ready yet"
	case os.Getpid() == 1:
		return "this is process 1 of its container, which ends with it: replace the container"
	}
	return ""
}

// startSuccessor starts the program with copies of the sockets.
func (l *life) startSuccessor() (*supervise.Child, error) {
	sockets, err := l.copySockets()
	for _, s := range sockets {
		defer unix.Close(s.FD)
	}
	if err != nil {
		return nil, err
	}
	return l.program.Start(sockets)
}

// copySockets returns copies of the sockets of the endpoints and of all listeners, and the file of the bans.
// The caller owns their descriptors, with an error too.
func (l *life) copySockets() ([]supervise.Socket, error) {
	all, err := l.endpoints.copySockets()
	if err != nil {
		return all, err
	}
	open, err := l.gateway.Sockets()
	for _, s := range open {
		all = append(all, supervise.Socket{Name: s.Name, FD: s.FD, Held: s.Held})
	}
	if err != nil {
		return all, err
	}
	bans, err := l.bansFile()
	if err != nil {
		return all, err
	}
	return append(all, bans), nil
}

// finishUpgrade leaves the service to the successor, or continues to serve if the
// upgrade failed.
func (l *life) finishUpgrade(result upgraded) {
	child := l.successor
	l.successor = nil
	if result.err != nil || l.draining() {
		l.config.Gateway.Bans.Thaw()
	}
	if l.draining() {
		if result.flows != nil {
			result.flows.Resume()
		}
		l.log.Warn().Msg("upgrade cancelled: the gateway is draining")
		return
	}
	if result.err != nil {
		l.upgradeFailed(result.err)
		return
	}
	timeout := l.config.Gateway.DrainTimeout
	l.handedOver = true
	l.reportDrain(timeout)
	l.systemd.tell(supervise.MainPID(child.PID), supervise.Status(fmt.Sprintf("process %d takes over", child.PID)))
	l.systemd.silence()
	child.Commit()
	result.flows.Leave()
	l.gateway.HandOver()
	go func() {
		l.endpoints.leave()
		l.endpoints.close()
	}()
	l.logRefused(result.flows)
	l.log.Info().Int("child", child.PID).Int("active", l.gateway.Counters().Active).Int("flows", result.flows.Taken).
		Str("timeout", timeout.String()).Msg("handed over; draining")
}

// logRefused logs the number of flows that the successor did not take, by reason.
func (l *life) logRefused(flows *datagram.Handover) {
	for _, reason := range slices.Sorted(maps.Keys(flows.Refused)) {
		l.log.Warn().Int("count", flows.Refused[reason]).Str("reason", reason).
			Msg("flows not handed over; they end")
	}
}

func (l *life) upgradeFailed(err error) {
	withHint(l.log.Error().Str("error", oneLine(err)), l.upgradeHint(oneLine(err))).
		Msg("upgrade failed: this process continues to serve")
	l.systemd.tell(supervise.Status(l.servingStatus() + "; the last upgrade failed: " + oneLine(err)))
}

// upgradeHint returns the hint for an upgrade that failed because the sandbox of this
// process, which the new one cannot leave, does not permit what the new one needs.
func (l *life) upgradeHint(problem string) string {
	denied := strings.Contains(problem, unix.EACCES.Error()) || strings.Contains(problem, unix.EPERM.Error())
	if !denied || l.sandboxReport().Mode == sandbox.Off.String() {
		return ""
	}
	return "the new process is in the sandbox of this one: restart the service, or start it with --sandbox off"
}

package config

import (
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"

	"unproxy/gateway/config/value"
	"unproxy/gateway/engine"
	"unproxy/transparent"
)

// The longest v2 header there can be: its 16 fixed bytes and 65535 more. The
// shortest limit that makes sense still takes a header with IPv6 addresses.
const (
	mostHeader  = 16 + 65535
	leastHeader = 16 + 36
)

// mostHeaders is the most headers that may be stacked: one for each load
// balancer on the way, and nobody has so many.
const mostHeaders = 16

func setRules(d *draft, v []string) error {
	d.trust.rules = v
	return nil
}

func setFiles(d *draft, v []string) error {
	d.trust.files = v
	return nil
}

func setUntrusted(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.PassUntrusted = i == 1 }, "reject", "pass")
}

func setCutUntrusted(d *draft, v []string) error { return turn(v, &d.forward.CutUntrusted) }

func setHealth(d *draft, v []string) error {
	d.health.rules = v
	return nil
}

func setSocketMode(d *draft, v []string) error {
	mode, err := value.Mode(last(v))
	d.forward.SocketMode = fs.FileMode(mode)
	return err
}

func setAccept(d *draft, v []string) error {
	taken := [2]bool{}
	for _, w := range strings.Split(last(v), ",") {
		i, err := value.Word(strings.TrimSpace(w), "v1", "v2")
		if err != nil {
			return &value.Error{Why: "is not v1, v2 or v1,v2", Instead: "v1,v2"}
		}
		taken[i] = true
	}
	d.forward.Header.RefuseV1, d.forward.Header.RefuseV2 = !taken[0], !taken[1]
	return nil
}

func setHeaderTimeout(d *draft, v []string) error {
	return duration(v, time.Millisecond, &d.forward.HeaderTimeout)
}

func setMaxHeader(d *draft, v []string) error {
	n, err := value.Size(last(v))
	if err != nil {
		return err
	}
	if n < leastHeader {
		return &value.Error{
			Why:     fmt.Sprintf("is too short: a header with IPv6 addresses takes %d bytes", leastHeader),
			Instead: "16KiB",
		}
	}
	if n >= math.MaxUint16 {
		n = mostHeader // whoever writes 64KiB means every header that there can be
	}
	d.forward.Header.MaxLength = n
	return nil
}

func setChecksum(d *draft, v []string) error { return turn(v, &d.forward.Header.RequireChecksum) }

func setIPv4InTCP6(d *draft, v []string) error { return turn(v, &d.forward.Header.IPv4InTCP6) }

func setHeaders(d *draft, v []string) error {
	n, err := value.Count(last(v), mostHeaders)
	if err == nil && n == 0 {
		err = &value.Error{Why: "would take no header off; nothing is left to do", Instead: "1"}
	}
	d.forward.Headers = int(n)
	return err
}

func setLocal(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.CloseLocal = i == 1 }, "relay", "close")
}

func setUnknown(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.RejectUnknown = i == 1 }, "relay", "reject")
}

func setTransparent(d *draft, v []string) error { return turn(v, &d.forward.Transparent) }

func setSourcePort(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.Source.SourcePort = transparent.SourcePort(i) },
		transparent.Prefer.String(), transparent.Keep.String(), transparent.Any.String())
}

func setFamilyMismatch(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.Source.FamilyMismatch = transparent.FamilyMismatch(i) },
		transparent.Reject.String(), transparent.Plain.String(), transparent.Map.String())
}

func setAllowSource(d *draft, v []string) error {
	d.allowSource.rules = v
	return nil
}

func setTProxy(d *draft, v []string) error { return turn(v, &d.forward.TProxy) }

func setRedirect(d *draft, v []string) error {
	d.forward.Redirect = nil
	for _, text := range v {
		r, err := parseRedirect(text)
		if err != nil {
			return err
		}
		d.forward.Redirect = append(d.forward.Redirect, r)
	}
	return nil
}

func setAllowDestination(d *draft, v []string) error {
	d.allowDestination.rules = v
	return nil
}

func setMark(d *draft, v []string) error {
	n, err := value.Count(last(v), math.MaxUint32)
	d.forward.Mark = uint32(n)
	return err
}

func setConnectTimeout(d *draft, v []string) error {
	return duration(v, time.Millisecond, &d.forward.ConnectTimeout)
}

func setDatagramHeader(d *draft, v []string) error {
	return choose(v, func(i int) { d.forward.DatagramHeader = engine.DatagramHeader(i) },
		engine.EveryDatagram.String(), engine.FirstDatagram.String(), engine.SimpleProxy.String())
}

func setFlowTimeout(d *draft, v []string) error {
	err := duration(v, time.Millisecond, &d.forward.FlowTimeout)
	if err == nil && d.forward.FlowTimeout == 0 {
		err = &value.Error{Why: "would never end a flow", Instead: "60s"}
	}
	return err
}

func setMaxFlows(d *draft, v []string) error { return count(v, &d.forward.MaxFlows) }

func setIdleTimeout(d *draft, v []string) error {
	return duration(v, time.Millisecond, &d.forward.IdleTimeout)
}

// setKeepalive takes no part of a second: TCP_KEEPIDLE counts whole ones.
func setKeepalive(d *draft, v []string) error {
	return duration(v, time.Second, &d.forward.Keepalive)
}

// setUserTimeout takes no part of a millisecond: TCP_USER_TIMEOUT counts whole
// ones.
func setUserTimeout(d *draft, v []string) error {
	return duration(v, time.Millisecond, &d.forward.UserTimeout)
}

func setMaxConnections(d *draft, v []string) error { return count(v, &d.forward.MaxConnections) }

func setMaxPerClient(d *draft, v []string) error {
	return count(v, &d.forward.MaxConnectionsPerClient)
}

// mostRate is how many connections a second can be told apart.
const mostRate = 100_000

// setAcceptRate reads N, or N/BURST. Without a burst it is what a second allows.
func setAcceptRate(d *draft, v []string) error {
	often, burst, hasBurst := strings.Cut(last(v), "/")
	n, err := value.Count(often, mostRate)
	if err != nil {
		return &value.Error{Why: fmt.Sprintf("is not N or N/BURST, connections a second, from 1 to %d", mostRate), Instead: "100/200"}
	}
	b := n
	if hasBurst {
		b, err = value.Count(burst, mostRate)
		if err != nil || b == 0 || n == 0 {
			return &value.Error{Why: fmt.Sprintf("has no burst from 1 to %d", mostRate), Instead: fmt.Sprintf("%d/%d", max(n, 1), max(n, 1))}
		}
	}
	d.forward.AcceptRate = engine.Rate{PerSecond: int(n), Burst: int(b)}
	return nil
}

// last returns the value that holds when one is given several times.
func last(v []string) string { return v[len(v)-1] }

func choose(v []string, take func(int), words ...string) error {
	i, err := value.Word(last(v), words...)
	if err == nil {
		take(i)
	}
	return err
}

func turn(v []string, into *bool) (err error) {
	*into, err = value.Switch(last(v))
	return err
}

func duration(v []string, least time.Duration, into *time.Duration) (err error) {
	*into, err = value.Duration(last(v), least)
	return err
}

func count(v []string, into *int) error {
	n, err := value.Count(last(v), math.MaxInt32)
	*into = int(n)
	return err
}

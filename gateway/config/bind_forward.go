package config

import (
	"fmt"
	"math"
	"strings"
	"time"

	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
)

const (
	// mostHeader is the length of the longest v2 header: 16 fixed bytes and a
	// 16-bit length.
	mostHeader = 16 + 65535
	// leastHeader is the lowest limit: a v2 header with IPv6 addresses.
	leastHeader = 16 + 36
	// mostHeaders is the maximum number of stacked headers, one per load balancer.
	mostHeaders = 16
	// mostRate is the highest rate, in connections per second.
	mostRate = 100_000
)

func setAccept(d *draft, texts []string) error {
	accepted := [2]bool{}
	for _, w := range strings.Split(last(texts), ",") {
		i, err := value.Word(strings.TrimSpace(w), "v1", "v2")
		if err != nil {
			return &value.Error{Why: "is not v1, v2 or v1,v2", Hint: "v1,v2"}
		}
		accepted[i] = true
	}
	d.Header.RefuseV1, d.Header.RefuseV2 = !accepted[0], !accepted[1]
	return nil
}

func setMaxHeader(d *draft, texts []string) error {
	n, err := value.Size(last(texts))
	if err != nil {
		return err
	}
	if n < leastHeader {
		return &value.Error{
			Why:  fmt.Sprintf("is too short: a header with IPv6 addresses takes %d bytes", leastHeader),
			Hint: "16KiB",
		}
	}
	if n >= math.MaxUint16 {
		n = mostHeader // no header is longer
	}
	d.Header.MaxLength = n
	return nil
}

func setHeaders(d *draft, texts []string) error {
	n, err := value.Count(last(texts), mostHeaders)
	if err == nil && n == 0 {
		err = &value.Error{Why: "is too low: the minimum is 1", Hint: "1"}
	}
	d.Headers = int(n)
	return err
}

func setRedirect(d *draft, texts []string) error {
	d.Redirect = nil
	for _, text := range texts {
		r, err := parseRedirect(text)
		if err != nil {
			return err
		}
		d.Redirect = append(d.Redirect, r)
	}
	return nil
}

func setFlowTimeout(d *draft, texts []string) (err error) {
	d.FlowTimeout, err = value.Duration(last(texts), time.Millisecond, longest)
	if err == nil && d.FlowTimeout == 0 {
		err = &value.Error{Why: "would never end a flow", Hint: "60s"}
	}
	return err
}

// rate binds N or N/BURST. BURST defaults to N.
func rate(at func(*draft) *forward.Rate) binding[draft] {
	return func(d *draft, texts []string) (err error) {
		*at(d), err = parseRate(last(texts))
		return err
	}
}

func parseRate(text string) (forward.Rate, error) {
	often, burst, hasBurst := strings.Cut(text, "/")
	n, err := value.Count(often, mostRate)
	if err != nil {
		return forward.Rate{}, &value.Error{
			Why:  fmt.Sprintf("is not N or N/BURST, connections per second, from 1 to %d", mostRate),
			Hint: "100/200",
		}
	}
	b := n
	if hasBurst {
		b, err = value.Count(burst, mostRate)
		if err != nil || b == 0 || n == 0 {
			return forward.Rate{}, &value.Error{
				Why:  fmt.Sprintf("needs a rate and a burst from 1 to %d", mostRate),
				Hint: fmt.Sprintf("%d/%d", max(n, 1), max(n, 1)),
			}
		}
	}
	return forward.Rate{PerSecond: int(n), Burst: int(b)}, nil
}

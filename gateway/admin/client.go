package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"unproxy/gateway/readiness"
)

// maxAnswer bounds what a client reads of one answer: the listing of the most
// connections takes a tenth of it.
const maxAnswer = 64 << 20

// Client asks an endpoint. It may be used from several goroutines.
type Client struct {
	at   Address
	http http.Client
}

// NewClient returns a client of the endpoint at an address; it connects to
// nothing yet.
func NewClient(at Address) *Client {
	at.TCP = reachable(at.TCP)
	network, address := at.network()
	return &Client{at: at, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}}
}

// reachable returns where to connect to for a listener: one on all addresses is
// on loopback, too.
func reachable(a netip.AddrPort) netip.AddrPort {
	switch a.Addr() {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// Readiness returns why no new connections are welcome; nothing if they are.
func (c *Client) Readiness(ctx context.Context) ([]readiness.Reason, error) {
	var answer readyAnswer
	code, err := c.get(ctx, "/readyz", &answer)
	if err != nil {
		return nil, err
	}
	if answer.Ready != (code == http.StatusOK) || answer.Ready != (len(answer.Reasons) == 0) {
		return nil, fmt.Errorf("ask %s for /readyz: the answer, %d, is not that of unproxy", c.at, code)
	}
	return answer.Reasons, nil
}

// Status returns the whole status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.want(ctx, "/status.json", &s)
}

// Connections returns the connections that a query asks for: the part of the
// URL behind the question mark.
func (c *Client) Connections(ctx context.Context, query string) (*Connections, error) {
	var all Connections
	return &all, c.want(ctx, "/connections.json?"+query, &all)
}

// want gets a path whose answer must be 200.
func (c *Client) want(ctx context.Context, path string, into any) error {
	code, err := c.get(ctx, path, into)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("ask %s for %s: %d %s", c.at, path, code, http.StatusText(code))
	}
	return err
}

// get asks for a path and decodes the answer, whatever its code is.
func (c *Client) get(ctx context.Context, path string, into any) (code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, &UnreachableError{Address: c.at, Err: err}
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(into); err != nil {
		return 0, fmt.Errorf("ask %s for %s: the answer, %d, is not that of unproxy: %w", c.at, path, response.StatusCode, err)
	}
	return response.StatusCode, nil
}

// UnreachableError says that there is no endpoint at an address, or none that
// answers.
type UnreachableError struct {
	Address Address
	Err     error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from the admin endpoint at %s: %v", e.Address, cause(e.Err))
}

// Unwrap returns the error behind it.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint returns what may mend it.
func (e *UnreachableError) Hint() string {
	return "does the gateway run, and with --admin " + e.Address.String() + "?"
}

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"

	"unproxy/gateway/kernel"
)

// maxAnswer is how many bytes of an answer a client reads. The longest list of
// connections takes a tenth of it.
const maxAnswer = 64 << 20

// Client queries an endpoint. It may be used from any number of goroutines.
type Client struct {
	kind Kind
	at   Address
	http http.Client
}

// NewClient returns a client of the endpoint of a kind at an address. It does not
// connect yet. If the address is unspecified (0.0.0.0 or [::]), it uses loopback.
func NewClient(k Kind, at Address) *Client {
	at.TCP = reachable(at.TCP)
	network, address := at.network()
	return &Client{kind: k, at: at, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return kernel.Dial(ctx, net.Dialer{}, network, address)
		},
	}}}
}

// reachable returns the address to connect to for a listener at a.
func reachable(a netip.AddrPort) netip.AddrPort {
	switch a.Addr() {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// Readiness returns the answer of /readyz to a query. The error is an
// [*UnreachableError] if the endpoint did not answer.
func (c *Client) Readiness(ctx context.Context, q ReadinessQuery) (Readiness, error) {
	var answer struct {
		Readiness
		errorAnswer
	}
	path := "/readyz" + q.encode()
	code, err := c.get(ctx, path, &answer)
	if err != nil {
		return Readiness{}, err
	}
	if code == http.StatusNotFound && q.Forward != "" && answer.Error != "" {
		return Readiness{}, errors.New(answer.Error)
	}
	wantCode := http.StatusServiceUnavailable
	if answer.Ready {
		wantCode = http.StatusOK
	}
	if code != wantCode || answer.Ready != (len(answer.Reasons) == 0) {
		return Readiness{}, fmt.Errorf("GET %s from %s: the answer, status %d, is not from unproxy", path, c.at, code)
	}
	return answer.Readiness, nil
}

// Status returns the answer of /status.json. The error is an [*UnreachableError] if
// the endpoint did not answer.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.want(ctx, "/status.json", &s)
}

// Connections returns the answer of /connections.json for a query, the part of the
// URL after the question mark. The error is an [*UnreachableError] if the endpoint
// did not answer.
func (c *Client) Connections(ctx context.Context, query string) (*Connections, error) {
	var all Connections
	return &all, c.want(ctx, "/connections.json?"+query, &all)
}

// want gets a path whose status must be 200.
func (c *Client) want(ctx context.Context, path string, into any) error {
	code, err := c.get(ctx, path, into)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET %s from %s: status %d %s", path, c.at, code, http.StatusText(code))
	}
	return err
}

// get gets a path and decodes the answer, whatever its status.
func (c *Client) get(ctx context.Context, path string, into any) (code int, err error) {
	code, text, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return 0, err
	}
	return code, c.decode(http.MethodGet+" "+path, code, text, into)
}

// attempt makes a request. It decodes the answer of status 200 into a value, and any other
// into a message.
func (c *Client) attempt(ctx context.Context, method, path string, into any) (code int, message string, err error) {
	code, text, err := c.do(ctx, method, path)
	if err != nil {
		return 0, "", err
	}
	var refused errorAnswer
	if code != http.StatusOK {
		into = &refused
	}
	err = c.decode(method+" "+path, code, text, into)
	return code, refused.Error, err
}

// do makes a request and returns the status and the body of the answer.
func (c *Client) do(ctx context.Context, method, path string) (code int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, &UnreachableError{Kind: c.kind, Address: c.at, Err: err}
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, &UnreachableError{Kind: c.kind, Address: c.at, Err: err}
	}
	return response.StatusCode, body, nil
}

// decode decodes the answer to a request.
func (c *Client) decode(request string, code int, body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s from %s: the answer, status %d, is not from unproxy: %w", request, c.at, code, err)
	}
	return nil
}

// UnreachableError means that the endpoint at an address did not answer.
type UnreachableError struct {
	Kind    Kind
	Address Address
	Err     error
}

// Error names the address once, and the cause.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from the %s at %s: %v", e.Kind, e.Address, cause(e.Err))
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint says what to check.
func (e *UnreachableError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return "the mode of the socket and its directories decides who may connect: run this command as root"
	}
	return "check that the gateway is running with " + e.Kind.Flag() + " " + e.Address.String()
}

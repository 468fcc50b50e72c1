package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// How many connections /connections.json lists without a limit in the query, and
// the highest limit.
const (
	defaultLimit = 100
	maxLimit     = 10_000
)

// Connection is one open connection. Addresses are in the form of the log, and
// empty if they are not known yet.
type Connection struct {
	// ID is the ID in the log, which DELETE /connections/ID takes.
	ID string `json:"id"`
	// Forward is the listener, as in the log.
	Forward     string `json:"forward"`
	Peer        string `json:"peer"` // "unix" on a unix socket
	Client      string `json:"client"`
	Destination string `json:"destination"`
	Backend     string `json:"backend"`
	Transparent bool   `json:"transparent"`
	TOA         bool   `json:"toa,omitempty"`
	// Version is the version of the header, 0 if none was read.
	Version uint8 `json:"version"`
	// Authority is the host name that the client asked for. The client chose
	// it: it may hold any text.
	Authority string `json:"authority,omitempty"`
	State     string `json:"state"` // see engine.Session
	// BytesIn and BytesOut are the payload to the backend and back, in bytes.
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
	// Blocked is the side that does not take what the other one has sent: "client",
	// "backend" or "both". HalfClosed is the side that has ended its stream.
	Blocked    string `json:"blocked,omitempty"`
	HalfClosed string `json:"half_closed,omitempty"`
	// BufferedBytes is the memory for what was not taken, PipedBytes what waits in pipes.
	BufferedBytes int64 `json:"buffered_bytes"`
	PipedBytes    int64 `json:"piped_bytes"`
	// AgeSeconds is the time since accept, IdleSeconds since the last byte.
	AgeSeconds  float64 `json:"age_seconds"`
	IdleSeconds float64 `json:"idle_seconds"`
}

// Connections is the answer of /connections.json.
type Connections struct {
	Schema int `json:"schema"` // [Schema]
	// Matched is the number of connections that match the query. Connections
	// lists them up to the limit.
	Matched     int          `json:"matched"`
	Connections []Connection `json:"connections"`
}

// query selects connections and their order.
type query struct {
	client  func(netip.Addr) bool // nil matches all
	forward string                // "" matches all
	limit   int
	order   order
}

// order compares two connections; the lower one is listed first.
type order func(a, b *engine.Session) int

func oldestFirst(a, b *engine.Session) int { return cmp.Compare(b.Age, a.Age) }

func mostBytesFirst(a, b *engine.Session) int {
	return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut)
}

func longestIdleFirst(a, b *engine.Session) int { return cmp.Compare(b.Idle, a.Idle) }

func mostHeldFirst(a, b *engine.Session) int {
	return cmp.Or(cmp.Compare(b.Buffered+b.Piped, a.Buffered+a.Piped), cmp.Compare(len(b.Blocked), len(a.Blocked)),
		longestIdleFirst(a, b))
}

// parseOrder parses the value of the parameter sort.
func parseOrder(word string) (order, error) {
	switch word {
	case "age":
		return oldestFirst, nil
	case "bytes":
		return mostBytesFirst, nil
	case "idle":
		return longestIdleFirst, nil
	case "held":
		return mostHeldFirst, nil
	}
	return nil, fmt.Errorf("sort %.120q is not one of age, bytes, idle, held", word)
}

// parseLimit parses the value of the parameter limit.
func parseLimit(text string) (int, error) {
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxLimit {
		return 0, fmt.Errorf("limit %.120q is not a number from 1 to %d", text, maxLimit)
	}
	return limit, nil
}

// parseQuery parses the parameters client, forward, limit and sort.
func parseQuery(r *http.Request) (q query, err error) {
	values, err := parameters(r, "client", "forward", "limit", "sort")
	if err != nil {
		return q, err
	}
	q = query{limit: defaultLimit, order: oldestFirst}
	for key := range values {
		value := values.Get(key)
		switch key {
		case "client":
			q.client = matchClient(value)
		case "forward":
			q.forward = value
		case "limit":
			q.limit, err = parseLimit(value)
		case "sort":
			q.order, err = parseOrder(value)
		}
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

// matchClient returns the filter for a prefix, an address, or the beginning of an
// address, such as "203.0.". It is nil for an empty text.
func matchClient(text string) func(netip.Addr) bool {
	if text == "" {
		return nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains
	}
	if want, err := netip.ParseAddr(text); err == nil {
		return func(a netip.Addr) bool { return a == want.Unmap() }
	}
	return func(a netip.Addr) bool { return a.IsValid() && strings.HasPrefix(a.String(), text) }
}

func (q *query) matches(s *engine.Session) bool {
	if q.forward != "" && s.Listener != q.forward && s.Forward != q.forward {
		return false
	}
	return q.client == nil || q.client(s.Client.Addr())
}

// find returns the sessions that match q, in order and up to its limit, and how
// many match. It never keeps more than twice the limit.
func (q *query) find(ctx context.Context, g Gateway) (found []*engine.Session, matched int, err error) {
	byOrder := func(a, b *engine.Session) int { return cmp.Or(q.order(a, b), cmp.Compare(a.ID, b.ID)) }
	var last *engine.Session // last of those listed so far, once the limit is reached
	err = g.EachSession(ctx, func(s *engine.Session) {
		if !q.matches(s) {
			return
		}
		matched++
		if last != nil && byOrder(s, last) > 0 {
			return
		}
		kept := *s
		found = append(found, &kept)
		if len(found) == 2*q.limit {
			slices.SortFunc(found, byOrder)
			found = found[:q.limit]
			last = found[q.limit-1]
		}
	})
	slices.SortFunc(found, byOrder)
	return found[:min(len(found), q.limit)], matched, err
}

// connections answers GET /connections.json.
func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	g := s.gateway()
	if g == nil {
		writeJSON(w, http.StatusOK, Connections{Schema: Schema, Connections: []Connection{}})
		return
	}
	ctx, cancel := loopContext(r.Context())
	defer cancel()
	found, matched, err := q.find(ctx, g)
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer := Connections{Schema: Schema, Matched: matched, Connections: make([]Connection, len(found))}
	for i, session := range found {
		answer.Connections[i] = s.connection(session)
	}
	writeJSON(w, http.StatusOK, answer)
}

// connection returns a session in the form of the answer.
func (s *Server) connection(from *engine.Session) Connection {
	c := Connection{
		ID:          string(record.AppendID(nil, s.config.Instance, from.ID)),
		Forward:     from.Listener,
		Peer:        "unix",
		Client:      text(from.Client),
		Destination: text(from.Destination),
		Transparent: from.Transparent,
		TOA:         from.TOA,
		Version:     from.Version,
		Authority:   from.Authority,
		State:       from.State,
		BytesIn:     from.BytesIn,
		BytesOut:    from.BytesOut,
		Blocked:     from.Blocked,
		HalfClosed:  from.HalfClosed,
		AgeSeconds:  from.Age.Seconds(),
		IdleSeconds: from.Idle.Seconds(),

		BufferedBytes: from.Buffered,
		PipedBytes:    from.Piped,
	}
	if from.Peer.IsValid() {
		c.Peer = from.Peer.String()
	}
	if from.Backend != (forward.Endpoint{}) {
		c.Backend = from.Backend.String()
	}
	return c
}

// cut answers DELETE /connections/ID: it resets a connection on both sides.
func (s *Server) cut(w http.ResponseWriter, r *http.Request) {
	id, ok := record.ParseID(r.PathValue("id"), s.config.Instance)
	g := s.gateway()
	if !ok || g == nil {
		writeError(w, http.StatusNotFound, "no such connection")
		return
	}
	ctx, cancel := loopContext(r.Context())
	defer cancel()
	found, err := g.Reset(ctx, id)
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	if !found {
		writeError(w, http.StatusNotFound, "no such connection, or it has ended")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

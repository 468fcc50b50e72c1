package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// How many connections /connections.json lists: so many if it is not told, and
// at most so many.
const (
	usualConnections = 100
	mostConnections  = 10_000
)

// Connection is one that goes on.
type Connection struct {
	// ID is the same as in the log.
	ID string `json:"id"`
	// Forward is the listener, as in the log.
	Forward     string `json:"forward"`
	Peer        string `json:"peer"` // "unix" on a unix socket
	Client      string `json:"client"`
	Destination string `json:"destination"`
	Backend     string `json:"backend"`
	Transparent bool   `json:"transparent"`
	Version     uint8  `json:"version"`
	// Authority is the host name that the client asked for, of its own choice.
	Authority   string  `json:"authority,omitempty"`
	State       string  `json:"state"` // see engine.Session
	BytesIn     int64   `json:"bytes_in"`
	BytesOut    int64   `json:"bytes_out"`
	AgeSeconds  float64 `json:"age_seconds"`
	IdleSeconds float64 `json:"idle_seconds"`
}

// Connections is the answer of /connections.json.
type Connections struct {
	// Matched is how many there are; the first of them are listed.
	Matched     int          `json:"matched"`
	Connections []Connection `json:"connections"`
}

// query says which connections are asked for, and in which order.
type query struct {
	client  func(netip.Addr) bool // nil takes all
	forward string                // "" takes all
	limit   int
	order   func(a, b *engine.Session) int
}

// orders are the values of sort.
var orders = map[string]func(a, b *engine.Session) int{
	"age":   func(a, b *engine.Session) int { return cmp.Compare(b.Age, a.Age) },
	"bytes": func(a, b *engine.Session) int { return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut) },
	"idle":  func(a, b *engine.Session) int { return cmp.Compare(b.Idle, a.Idle) },
}

// parseQuery reads client=, forward=, limit= and sort=. What it does not know
// is an error: a filter that does nothing would be believed.
func parseQuery(values url.Values) (query, error) {
	q := query{limit: usualConnections, order: orders["age"]}
	for key := range values {
		value := values.Get(key)
		var err error
		switch key {
		case "client":
			q.client = matchClient(value)
		case "forward":
			q.forward = value
		case "limit":
			q.limit, err = strconv.Atoi(value)
			if err != nil || q.limit < 1 || q.limit > mostConnections {
				return q, fmt.Errorf("limit %q is not a number from 1 to %d", value, mostConnections)
			}
		case "sort":
			if q.order = orders[value]; q.order == nil {
				return q, fmt.Errorf("sort %q is none of age, bytes, idle", value)
			}
		default:
			return q, fmt.Errorf("unknown parameter %q; there are client, forward, limit, sort", key)
		}
	}
	return q, nil
}

// matchClient reads a filter for clients: a prefix, a whole address, or the
// beginning of the text of one, "203.0.".
func matchClient(text string) func(netip.Addr) bool {
	if text == "" {
		return nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains
	}
	if whole, err := netip.ParseAddr(text); err == nil {
		return func(a netip.Addr) bool { return a == whole.Unmap() }
	}
	return func(a netip.Addr) bool { return a.IsValid() && strings.HasPrefix(a.String(), text) }
}

func (q *query) matches(s *engine.Session) bool {
	if q.forward != "" && s.Listener != q.forward && s.Forward != q.forward {
		return false
	}
	return q.client == nil || q.client(s.Client.Addr())
}

// find returns the sessions that q asks for, and how many match. It keeps no
// more of them than twice the limit, however many there are.
func (q *query) find(ctx context.Context, g Gateway) (found []*engine.Session, matched int, err error) {
	byOrder := func(a, b *engine.Session) int { return cmp.Or(q.order(a, b), cmp.Compare(a.ID, b.ID)) }
	var worst *engine.Session // of those that would be listed, once there are enough
	err = g.EachSession(ctx, func(s *engine.Session) {
		if !q.matches(s) {
			return
		}
		matched++
		if worst != nil && byOrder(s, worst) > 0 {
			return
		}
		kept := *s
		found = append(found, &kept)
		if len(found) == 2*q.limit {
			slices.SortFunc(found, byOrder)
			found = found[:q.limit]
			worst = found[q.limit-1]
		}
	})
	slices.SortFunc(found, byOrder)
	return found[:min(len(found), q.limit)], matched, err
}

// connections answers GET /connections.json.
func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		writeProblem(w, http.StatusBadRequest, err.Error())
		return
	}
	g := s.gateway()
	if g == nil {
		writeJSON(w, http.StatusOK, Connections{Connections: []Connection{}})
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), askTime, errStuck)
	defer cancel()
	found, matched, err := q.find(ctx, g)
	if err != nil {
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer := Connections{Matched: matched, Connections: make([]Connection, len(found))}
	for i, of := range found {
		answer.Connections[i] = s.connection(of)
	}
	writeJSON(w, http.StatusOK, answer)
}

// connection describes a session.
func (s *Server) connection(of *engine.Session) Connection {
	c := Connection{
		ID:          string(record.AppendID(nil, s.config.Instance, of.ID)),
		Forward:     of.Listener,
		Peer:        "unix",
		Client:      text(of.Client),
		Destination: text(of.Destination),
		Transparent: of.Transparent,
		Version:     of.Version,
		Authority:   of.Authority,
		State:       of.State,
		BytesIn:     of.BytesIn,
		BytesOut:    of.BytesOut,
		AgeSeconds:  of.Age.Seconds(),
		IdleSeconds: of.Idle.Seconds(),
	}
	if of.Peer.IsValid() {
		c.Peer = of.Peer.String()
	}
	if of.Backend != (forward.Endpoint{}) {
		c.Backend = of.Backend.String()
	}
	return c
}

// cut answers DELETE /connections/ID: it resets a connection.
func (s *Server) cut(w http.ResponseWriter, r *http.Request) {
	id, ok := record.ParseID(r.PathValue("id"), s.config.Instance)
	g := s.gateway()
	if !ok || g == nil {
		writeProblem(w, http.StatusNotFound, "there is no such connection")
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), askTime, errStuck)
	defer cancel()
	found, err := g.Reset(ctx, id)
	if err != nil {
		writeProblem(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	if !found {
		writeProblem(w, http.StatusNotFound, "there is no such connection, or it has ended")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

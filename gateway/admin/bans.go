package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"unproxy/gateway/ban"
	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
	"unproxy/trust"
)

// LongestBan is the longest duration of a ban that ends.
const LongestBan = 10 * 365 * 24 * time.Hour

// Bans is the answer of /bans.json.
type Bans struct {
	Schema int `json:"schema"` // [Schema]
	// Limit is how many bans there can be.
	Limit int `json:"limit"`
	// File is the path of the file that keeps the bans; absent if there is none.
	File string      `json:"file,omitempty"`
	Bans []BanStatus `json:"bans"`
}

// BanStatus is one ban.
type BanStatus struct {
	Prefix string    `json:"prefix"` // with its length, also of a single address
	Since  time.Time `json:"since"`
	// Until is when the ban ends; absent if it does not.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`
	// Hits is the number of connections and UDP flows that the ban has refused.
	Hits uint64 `json:"hits"`
}

// BanAnswer is the answer of POST /bans.
type BanAnswer struct {
	BanStatus
	// Cut is how many connections and UDP flows were ended.
	Cut int `json:"cut"`
}

// UnbanAnswer is the answer of DELETE /bans.
type UnbanAnswer struct {
	// Removed is false if there was no ban of that prefix.
	Removed bool `json:"removed"`
	// CoveredBy are wider bans, which still hold.
	CoveredBy []string `json:"covered_by"`
}

// BanRequest is a request for a ban.
type BanRequest struct {
	// Prefix is a prefix or an address.
	Prefix string
	// For is how long the ban lasts; 0 is without end.
	For time.Duration
	// Reason is a note of at most [ban.MostReason] bytes.
	Reason string
	// Cut ends the client's connections and UDP flows.
	Cut bool
}

// encode returns the request as a query, the inverse of parseBan.
func (r BanRequest) encode() string {
	q := url.Values{"prefix": {r.Prefix}}
	if r.For > 0 {
		q.Set("for", r.For.String())
	}
	if r.Reason != "" {
		q.Set("reason", r.Reason)
	}
	if r.Cut {
		q.Set("cut", "1")
	}
	return q.Encode()
}

// addBans adds the requests about bans.
func (s *Server) addBans(mux *http.ServeMux) {
	mux.HandleFunc("GET /bans.json", s.bans)
	mux.HandleFunc("POST /bans", s.ban)
	mux.HandleFunc("DELETE /bans", s.unban)
}

// bans answers GET /bans.json.
func (s *Server) bans(w http.ResponseWriter, _ *http.Request) {
	answer := Bans{Schema: Schema, Limit: ban.Most, Bans: []BanStatus{}}
	if g := s.gateway(); g != nil {
		answer.File = g.Bans().Path()
		for _, b := range g.Bans().All() {
			answer.Bans = append(answer.Bans, banStatus(b))
		}
	}
	writeJSON(w, http.StatusOK, answer)
}

func banStatus(b ban.Ban) BanStatus {
	return BanStatus{b.Prefix.String(), b.Since, b.Until, b.Reason, b.Hits}
}

// ban answers POST /bans. The ban is in force before the answer, and in the file if there
// is one. With cut, the connections have ended before the answer, too.
func (s *Server) ban(w http.ResponseWriter, r *http.Request) {
	b, cut, err := parseBan(r, s.now())
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	g := s.gateway()
	if g == nil {
		writeError(w, http.StatusServiceUnavailable, "the gateway is starting: repeat the request")
		return
	}
	added, err := g.Bans().Add(b)
	unsaved := new(*ban.SaveError)
	if err != nil && !errors.As(err, unsaved) {
		writeError(w, banCode(err), err.Error())
		return
	}
	answer := BanAnswer{BanStatus: banStatus(added)}
	if cut {
		ctx, cancel := loopContext(r.Context())
		defer cancel()
		n, cutErr := g.CutClients(ctx, b.Prefix)
		if answer.Cut = n; cutErr != nil {
			err = errors.Join(err, fmt.Errorf("connections may go on: %w", cutErr))
		}
	}
	if err != nil {
		writeError(w, http.StatusInternalServerError, "the ban is in force, but: "+value.OneLine(err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// unban answers DELETE /bans.
func (s *Server) unban(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "prefix")
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	p, err := trust.ParsePrefix(q.Get("prefix"))
	if err != nil {
		writeError(w, http.StatusBadRequest, withHint(err))
		return
	}
	g := s.gateway()
	if g == nil {
		writeError(w, http.StatusServiceUnavailable, "the gateway is starting: repeat the request")
		return
	}
	removed, wider, err := g.Bans().Remove(p)
	if err != nil && !removed {
		writeError(w, banCode(err), err.Error())
		return
	}
	if err != nil {
		writeError(w, http.StatusInternalServerError, "the ban has ended, but: "+err.Error())
		return
	}
	answer := UnbanAnswer{Removed: removed, CoveredBy: []string{}}
	for _, p := range wider {
		answer.CoveredBy = append(answer.CoveredBy, p.String())
	}
	writeJSON(w, http.StatusOK, answer)
}

// banCode returns the status of an error of [ban.List].
func banCode(err error) int {
	switch {
	case errors.Is(err, ban.ErrFrozen):
		return http.StatusServiceUnavailable
	case errors.Is(err, ban.ErrFull):
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

// parseBan reads the parameters prefix, for, reason and cut.
func parseBan(r *http.Request, now time.Time) (b ban.Ban, cut bool, err error) {
	q, err := parameters(r, "prefix", "for", "reason", "cut")
	if err != nil {
		return b, false, err
	}
	if b.Prefix, err = trust.ParsePrefix(q.Get("prefix")); err != nil {
		return b, false, errors.New(withHint(err))
	}
	if text := q.Get("for"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || d > LongestBan {
			return b, false, fmt.Errorf("for %.80q is not a duration from 1ns to %v, such as 10m", text, LongestBan)
		}
		b.Until = now.Add(d)
	}
	switch q.Get("cut") {
	case "", "0":
	case "1":
		cut = true
	default:
		return b, false, fmt.Errorf("cut %.80q is not 0 or 1", q.Get("cut"))
	}
	b.Reason = q.Get("reason")
	return b, cut, nil
}

// withHint returns the text of an error about a rule, with its hint.
func withHint(err error) string {
	if hint := config.HintOf(err); hint != "" {
		return err.Error() + ": " + hint
	}
	return err.Error()
}

// Bans returns the answer of /bans.json. The error is an [*UnreachableError] if the
// endpoint did not answer.
func (c *Client) Bans(ctx context.Context) (*Bans, error) {
	var all Bans
	return &all, c.want(ctx, "/bans.json", &all)
}

// Ban bans a client. It repeats the request while another process takes over.
func (c *Client) Ban(ctx context.Context, r BanRequest) (*BanAnswer, error) {
	var answer BanAnswer
	return &answer, c.change(ctx, http.MethodPost, "/bans?"+r.encode(), &answer)
}

// Unban ends the ban of a prefix or an address. It repeats the request while another
// process takes over.
func (c *Client) Unban(ctx context.Context, prefix string) (*UnbanAnswer, error) {
	var answer UnbanAnswer
	query := url.Values{"prefix": {prefix}}.Encode()
	return &answer, c.change(ctx, http.MethodDelete, "/bans?"+query, &answer)
}

// RefusedError means that the endpoint refused a request.
type RefusedError struct{ Message string }

// Error returns what the endpoint said.
func (e *RefusedError) Error() string { return e.Message }

// repeatAfter is the time between two attempts of a change.
const repeatAfter = 100 * time.Millisecond

// change makes a request that changes something, and decodes its answer. While the status
// is 503 it tries again, until ctx is done.
func (c *Client) change(ctx context.Context, method, path string, into any) error {
	for {
		code, message, err := c.attempt(ctx, method, path, into)
		if err != nil || code == http.StatusOK {
			return err
		}
		if code != http.StatusServiceUnavailable {
			return &RefusedError{message}
		}
		select {
		case <-ctx.Done():
			return &RefusedError{message}
		case <-time.After(repeatAfter):
		}
	}
}

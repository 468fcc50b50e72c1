package ban

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// formatVersion is the version of the text of a list.
const formatVersion = 1

// head is the first line of the text. The number of bans shows a file that is cut short.
type head struct {
	Version int `json:"unproxy_bans"`
	Bans    int `json:"bans"`
}

// line is each further line: one ban.
type line struct {
	Prefix string    `json:"prefix"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	Hits   uint64    `json:"hits,omitempty"`
}

// Format returns the text of a list, for [Parse]: a line of JSON with the number of bans,
// then one for each ban.
func Format(all []Ban) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(head{formatVersion, len(all)}) // a buffer takes everything
	for _, one := range all {
		e.Encode(line{one.Prefix.String(), one.Since, one.Until, one.Reason, one.Hits})
	}
	return b.Bytes()
}

// Parse reads the text of a list. It accepts what [Format] writes, and nothing that
// Format would not write: an error names the line. An empty text is an empty list.
func Parse(text []byte) ([]Ban, error) {
	if len(text) == 0 {
		return nil, nil
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	var h head
	if err := decode(first, &h); err != nil || h.Version == 0 {
		return nil, errors.New("line 1: it is not a list of bans that unproxy wrote")
	}
	if h.Version != formatVersion {
		return nil, fmt.Errorf("line 1: version %d of the format is not known", h.Version)
	}
	if h.Bans < 0 || h.Bans > Most {
		return nil, fmt.Errorf("line 1: %d bans: the maximum is %d", h.Bans, Most)
	}
	var all []Ban
	seen := map[netip.Prefix]bool{}
	for number := 2; len(rest) > 0; number++ {
		var one []byte
		one, rest, _ = bytes.Cut(rest, []byte("\n"))
		b, err := parseLine(one)
		if err == nil && seen[b.Prefix] {
			err = fmt.Errorf("%s is banned twice", b.Prefix)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if len(all) == h.Bans {
			return nil, fmt.Errorf("line %d: there are more bans than the %d of line 1", number, h.Bans)
		}
		seen[b.Prefix] = true
		all = append(all, b)
	}
	if len(all) < h.Bans {
		return nil, fmt.Errorf("it has %d of %d bans: it was cut short", len(all), h.Bans)
	}
	return all, nil
}

// parseLine reads one ban.
func parseLine(text []byte) (Ban, error) {
	var l line
	if err := decode(text, &l); err != nil {
		return Ban{}, err
	}
	p, err := netip.ParsePrefix(l.Prefix)
	if err != nil {
		return Ban{}, fmt.Errorf("%.80q is not a prefix", l.Prefix)
	}
	b := Ban{Prefix: p, Since: l.Since.UTC(), Until: l.Until.UTC(), Reason: l.Reason, Hits: l.Hits}
	if l.Until.IsZero() {
		b.Until = time.Time{}
	}
	return b, b.check()
}

// decode decodes one JSON object with known fields and nothing after it.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it is incomplete")
		}
		return fmt.Errorf("it is not a ban: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the ban")
	}
	return nil
}

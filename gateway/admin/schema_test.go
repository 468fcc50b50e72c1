package admin

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/doctor"
	"unproxy/gateway/readiness"
	"unproxy/gateway/sandbox"
)

var update = flag.Bool("update", false, "add new fields to testdata/schema.txt")

// objects are the objects of /status.json, /connections.json and /bans.json, by their headings in
// docs/json.md.
var objects = []struct {
	name string
	of   any
}{
	{"status", Status{}}, {"version", Version{}}, {"sandbox", sandbox.Report{}}, {"reason", readiness.Reason{}}, {"rates", Rates{}}, {"history", History{}},
	{"forward", ForwardStatus{}}, {"listener", ListenerStatus{}}, {"backend", BackendStatus{}}, {"list", TrustStatus{}}, {"rule", RuleStatus{}}, {"clients", ClientList{}},
	{"refusal", Refusal{}}, {"finding", doctor.Finding{}}, {"holdings", HoldingsStatus{}}, {"connections", Connections{}}, {"connection", Connection{}},
	{"bans", Bans{}}, {"ban", BanStatus{}},
}

// fieldsOf returns the fields of the objects as "OBJECT FIELD TYPE".
func fieldsOf(t *testing.T) (all []string) {
	t.Helper()
	for _, o := range objects {
		of := reflect.TypeOf(o.of)
		for i := range of.NumField() {
			f := of.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				t.Fatalf("field %s of %s has no name in JSON", f.Name, of)
			}
			kind := kindOf(t, f.Type)
			if options != "" {
				kind += ", optional"
			}
			all = append(all, fmt.Sprintf("%s %s %s", o.name, name, kind))
		}
	}
	return all
}

// kindOf names a type as docs/json.md does.
func kindOf(t *testing.T, of reflect.Type) string {
	t.Helper()
	switch of {
	case reflect.TypeFor[time.Time]():
		return "time"
	case reflect.TypeFor[Maybe]():
		return "number or null"
	case reflect.TypeFor[json.RawMessage]():
		return "array of finding, or null"
	case reflect.TypeFor[doctor.Status](): // a number that is a word in JSON
		return "string"
	}
	switch of.Kind() {
	case reflect.Pointer:
		return kindOf(t, of.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint8, reflect.Uint64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Map:
		return "map of " + kindOf(t, of.Elem())
	case reflect.Slice:
		return "array of " + kindOf(t, of.Elem())
	case reflect.Struct:
		for _, o := range objects {
			if reflect.TypeOf(o.of) == of {
				return o.name
			}
		}
	}
	t.Fatalf("%s is not described", of)
	return ""
}

// Programs rely on every field of a schema: one that goes or changes its type needs a
// new one. testdata/schema.txt has the fields that there have ever been in this schema,
// and -update only adds to it.
func TestSchemaKeepsItsFields(t *testing.T) {
	const path = "testdata/schema.txt"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	first, kept := lines[0], lines[1:]
	if want := fmt.Sprintf("schema %d", Schema); first != want {
		t.Fatalf("%s is of %s, and the program has %s", path, first, want)
	}
	fields := fieldsOf(t)
	for _, field := range kept {
		if !slices.Contains(fields, field) {
			t.Errorf("%q is gone: bring it back, or give answers a new schema, see docs/json.md", field)
		}
	}
	for _, field := range fields {
		if slices.Contains(kept, field) {
			continue
		}
		if *update {
			kept = append(kept, field)
			continue
		}
		t.Errorf("%q is new: go test ./gateway/admin -run TestSchemaKeepsItsFields -update", field)
	}
	if *update {
		text := first + "\n" + strings.Join(kept, "\n") + "\n"
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// docs/json.md describes every field, and no other.
func TestSchemaIsDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	var documented []string
	for _, section := range strings.Split(string(content), "\n## ")[1:] {
		heading, table, _ := strings.Cut(section, "\n")
		for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]+) \\| [^|]+ \\|$").FindAllStringSubmatch(table, -1) {
			documented = append(documented, fmt.Sprintf("%s %s %s", strings.ToLower(heading), row[1], links.ReplaceAllString(row[2], "$1")))
		}
	}
	fields := fieldsOf(t)
	for _, f := range fields {
		if !slices.Contains(documented, f) {
			t.Errorf("docs/json.md does not have %q", f)
		}
	}
	for _, d := range documented {
		if !slices.Contains(fields, d) {
			t.Errorf("docs/json.md has %q, which does not exist", d)
		}
	}
	if want := fmt.Sprintf("`schema` is %d", Schema); !strings.Contains(string(content), want) {
		t.Errorf("docs/json.md does not say that %s", want)
	}
}

// Both answers say which schema they have, whether or not there is a gateway.
func TestAnswersHaveASchema(t *testing.T) {
	for name, s := range map[string]*Server{"starting": newServer(quiet(), nearby), "serving": func() *Server { s, _ := busy(); return s }()} {
		for _, path := range []string{"/status.json", "/connections.json"} {
			var answer struct{ Schema int }
			if err := json.Unmarshal(ask(s, "GET", path).Body.Bytes(), &answer); err != nil || answer.Schema != Schema {
				t.Errorf("%s, %s: schema %d, %v; want %d", path, name, answer.Schema, err, Schema)
			}
		}
	}
}

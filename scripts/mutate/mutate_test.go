package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// module writes a module with one package and goes to its root.
func module(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	files["go.mod"] = "module example\n\ngo 1.26\n"
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const source = `package p

import "time"

const most = 10

var table = map[uint8]string{3: "a" + "b"}

type T struct{ n uint16 }

func (t *T) less(o *T) bool { return t.n < o.n && !(o.n == 0) || f() }

func f() bool { return false }

func g(s string) (n int, err error) {
	if f() {
		return len(s) - 1, nil
	}
	for i := 0; i < 3; i++ {
		n += i
		time.Sleep(0)
	}
	return g(s)
}
`

// Every kind of change, and which are behind a switch. The control is what stays: strings,
// nil, and what is a zero value already.
func TestMutants(t *testing.T) {
	module(t, map[string]string{"p/p.go": source})
	code, err := readSources("p")
	if err != nil {
		t.Fatal(err)
	}
	var alone, switched []string
	for _, m := range mutate(code).mutants {
		list := &alone
		if m.switched {
			list = &switched
		}
		*list = append(*list, strings.TrimPrefix(m.name(), "p.go "))
	}
	constants := []string{"p.go: most = 10 -> most = 11", "p.go: most = 10 -> most = 9"}
	if !slices.Equal(alone, append(constants, "g: i++ -> i--", "g: time.Sleep(0) -> time.Sleep(1)")) {
		t.Errorf("built alone: %q", alone)
	}
	for _, name := range []string{
		"T.less: return t.n < o.n && !(o.n == 0) || f() -> return false",
		"T.less: t.n < o.n && !(o.n == 0) || f() -> t.n < o.n && !(o.n == 0) && f()",
		"T.less: t.n < o.n && !(o.n == 0) -> t.n < o.n || !(o.n == 0)",
		"T.less: t.n < o.n -> t.n <= o.n", "T.less: t.n < o.n -> t.n >= o.n",
		"T.less: !(o.n == 0) -> (o.n == 0)", "T.less: o.n == 0 -> o.n != 0", "T.less: o.n == 0 -> o.n == 1",
		"T.less: f() -> !(f())", "f: return false -> return true", "g: f() -> !(f())",
		"g: return len(s) - 1, nil -> return 0, nil", "g: len(s) - 1 -> len(s) + 1", "g: len(s) - 1 -> len(s) - 2",
		"g: len(s) - 1 -> len(s) - 0", "g: i < 3 -> i <= 3", "g: i < 3 -> i >= 3", "g: n += i -> n -= i",
		"g: time.Sleep(0) -> if false { time.Sleep(0) }", "g: return g(s) -> return 0, nil",
	} {
		if !slices.Contains(switched, name) {
			t.Errorf("%q is not behind a switch", name)
		}
	}
	if t.Failed() {
		t.Logf("behind switches: %q", switched)
	}
}

// What tests do not notice survives, and the list says which of it changes nothing. The
// controls are a mutant that is killed, one without end, and one that no test reaches.
func TestMeasure(t *testing.T) {
	const code = "package p\n\nfunc big(n int) bool { return n > 10 }\n\nfunc down(n int) int {\n\tfor n != 0 {\n\t\tn--\n\t}\n\treturn n\n}\n\n" +
		"func unused() bool { return true }\n"
	const tests = "package p\n\nimport \"testing\"\n\nfunc TestBig(t *testing.T) {\n\tif big(5) || !big(11) || down(3) != 0 {\n\t\tt.Fail()\n\t}\n}\n"
	const list = "# a comment\np.go big: n > 10 -> n >= 10\n\tnobody asks\n\tfor ten\np.go big: n > 10 -> n > 11\n\tit is killed\np.go big: n < 1 -> n <= 1\n\tit is not there\n"
	module(t, map[string]string{"p/p.go": code, "p/p_test.go": tests, "scripts/mutate/survivors/p.txt": list})
	k, err := readKnown(listOf("p"))
	if err != nil || k.reasons["p.go big: n > 10 -> n >= 10"] != "nobody asks for ten" {
		t.Fatalf("%q, %v", k.reasons, err)
	}
	s, err := readSources("p")
	if err != nil {
		t.Fatal(err)
	}
	p, ctx := mutate(s), context.Background()
	l := lab{directory: "p", tests: []string{"p"}, scratch: t.TempDir(), limit: time.Minute}
	reached, err := l.baseline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.switches(ctx, p); err != nil {
		t.Fatal(err)
	}
	r := report{known: k, counts: map[verdict]int{}}
	r.stale(p.mutants)
	got := map[string]verdict{}
	chosen := slices.DeleteFunc(slices.Clone(p.mutants), func(m mutant) bool { return m.function == "down" })
	if err := l.tryAll(ctx, chosen, reached, func(m mutant, v verdict) error {
		got[m.name()] = v
		r.add(m, v)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]verdict{
		"p.go big: n > 10 -> n >= 10":              survived,
		"p.go big: n > 10 -> n > 9":                survived,
		"p.go big: n > 10 -> n > 11":               killed,
		"p.go big: n > 10 -> n <= 10":              killed,
		"p.go unused: return true -> return false": uncovered,
		"p.go big: return n > 10 -> return false":  killed,
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if r.finish() || r.problems != 2 || r.excused != 1 || r.counts[survived] != 1 || r.counts[killed] != 3 {
		t.Errorf("%+v", r)
	}
	endlessOne := slices.IndexFunc(p.mutants, func(m mutant) bool { return m.after == "n++" })
	l.limit = 500 * time.Millisecond
	if v, err := l.try(ctx, p.mutants[endlessOne], 0); v != endless || err != nil {
		t.Errorf("%s: %q, %v", p.mutants[endlessOne].name(), v, err)
	}
}

// With a selection only those tests count. The control is the run of all tests.
func TestSelection(t *testing.T) {
	const code = "package p\n\nfunc big(n int) bool { return n > 10 }\n"
	const tests = "package p\n\nimport \"testing\"\n\nfunc TestAbove(t *testing.T) {\n\tif !big(11) {\n\t\tt.Fail()\n\t}\n}\n\n" +
		"func TestBelow(t *testing.T) {\n\tif big(10) {\n\t\tt.Fail()\n\t}\n}\n"
	module(t, map[string]string{"p/p.go": code, "p/p_test.go": tests})
	s, err := readSources("p")
	if err != nil {
		t.Fatal(err)
	}
	p, ctx := mutate(s), context.Background()
	i := slices.IndexFunc(p.mutants, func(m mutant) bool { return m.after == "n >= 10" })
	l := lab{directory: "p", tests: []string{"p"}, scratch: t.TempDir(), limit: time.Minute}
	if err := l.switches(ctx, p); err != nil {
		t.Fatal(err)
	}
	for chosen, want := range map[selection]verdict{
		{}: killed, {run: "TestBelow"}: killed, {run: "TestAbove"}: survived, {skip: "TestBelow"}: survived, {skip: "TestAbove"}: killed,
		{later: "TestBelow"}: killed, {later: "TestAbove"}: killed, {later: "TestBelow", skip: "TestBelow"}: survived,
	} {
		l.selection = chosen
		if got, err := l.run(ctx, l.switched, p.mutants[i].id); err != nil || got != want {
			t.Errorf("%+v: %q, %v, want %q", chosen, got, err, want)
		}
	}
}

// A test that fails with all mutants off, as one that counts allocations may, meets only mutants
// that are built alone.
func TestFailingBesideSwitches(t *testing.T) {
	const code = "package p\n\nfunc big(n int) bool { return n > 10 }\n"
	const tests = "package p\n\nimport (\n\t\"os\"\n\t\"strings\"\n\t\"testing\"\n)\n\n" +
		"func TestAlone(t *testing.T) {\n\tif strings.Contains(os.Args[0], \"switched\") || big(10) {\n\t\tt.Fail()\n\t}\n}\n\n" +
		"func TestNothing(t *testing.T) { big(5) }\n"
	module(t, map[string]string{"p/p.go": code, "p/p_test.go": tests})
	s, err := readSources("p")
	if err != nil {
		t.Fatal(err)
	}
	p, ctx := mutate(s), context.Background()
	l := lab{directory: "p", tests: []string{"p"}, selection: selection{skip: "TestNone"}, scratch: t.TempDir(), limit: time.Minute}
	if err := l.switches(ctx, p); err != nil || !slices.Equal(l.switched[0].failing, []string{"TestAlone"}) {
		t.Fatalf("%+v, %v", l.switched, err)
	}
	i := slices.IndexFunc(p.mutants, func(m mutant) bool { return m.after == "n >= 10" })
	if v, err := l.run(ctx, l.switched, p.mutants[i].id); v != survived || err != nil {
		t.Errorf("behind its switch: %q, %v", v, err)
	}
	if v, err := l.try(ctx, p.mutants[i], 0); v != killed || err != nil {
		t.Errorf("alone: %q, %v", v, err)
	}
	l.quick = true
	if v, err := l.try(ctx, p.mutants[i], 0); v != survived || err != nil {
		t.Errorf("with -quick: %q, %v", v, err)
	}
}

// A mutant is killed when the first test fails: what runs beside that test is not waited for.
// The control is the same program without an end to wait for.
func TestFirstFailureEnds(t *testing.T) {
	const code = "package p\n\nfunc big(n int) bool { return n > 10 }\n"
	const tests = "package p\n\nimport \"testing\"\n\n" +
		"func TestEndless(t *testing.T) {\n\tt.Parallel()\n\tfor big(11) != big(10) == false {\n\t}\n}\n\n" +
		"func TestBig(t *testing.T) {\n\tt.Parallel()\n\tif big(10) {\n\t\tt.Fail()\n\t}\n}\n"
	module(t, map[string]string{"p/p.go": code, "p/p_test.go": tests})
	s, err := readSources("p")
	if err != nil {
		t.Fatal(err)
	}
	p, ctx := mutate(s), context.Background()
	l := lab{directory: "p", tests: []string{"p"}, scratch: t.TempDir(), limit: time.Minute}
	if err := l.switches(ctx, p); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.mutants, func(m mutant) bool { return m.after == "n >= 10" })
	if v, err := l.run(ctx, l.switched, p.mutants[i].id); v != killed || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	l.limit, l.selection.skip = 500*time.Millisecond, "TestBig"
	if v, err := l.run(ctx, l.switched, p.mutants[i].id); v != endless || err != nil {
		t.Errorf("the test that does not end alone: %q, %v", v, err)
	}
}

// With a file of results a run goes on where it was interrupted: what was killed is not tried
// again, what survived is, after all that have no verdict yet.
func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results")
	all := []mutant{{before: "a"}, {before: "b", switched: true}, {before: "c"}, {before: "d", switched: true}, {before: "e"}}
	names := func(of []mutant) (text string) {
		for _, m := range of {
			text += m.before
		}
		return text
	}
	for _, step := range []struct {
		keeps       verdict
		of          int
		final, open string
	}{
		{"", 0, "", "bdace"}, {survived, 0, "", "bdcea"}, {killed, 1, "b", "dcea"}, {uncovered, 2, "b", "deac"},
		{endless, 3, "bd", "eac"}, {unbuilt, 4, "bde", "ac"}, {killed, 0, "abde", "c"},
	} {
		r, err := readResults(path)
		if err == nil && step.keeps != "" {
			err = r.keep(all[step.of], step.keeps)
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err = readResults(path)
		if final, open := r.split(all); err != nil || names(final) != step.final || names(open) != step.open {
			t.Errorf("after %q of %d: %q and %q, %v; want %q and %q", step.keeps, step.of, names(final), names(open), err, step.final, step.open)
		}
	}
	none, err := readResults("")
	if err == nil {
		err = none.keep(all[0], killed)
	}
	if final, open := none.split(all); err != nil || len(final) != 0 || names(open) != "bdace" {
		t.Errorf("without a file: %q, %q, %v", names(final), names(open), err)
	}
	if _, err := readResults(t.TempDir()); err == nil {
		t.Error("a directory is read")
	}
}

// A list with a mistake is refused, with the line.
func TestReadKnown(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"\ta reason\n", "x:1: a reason without a mutant"},
		{"a -> b\n", `x: no reason, in a line that begins with a tab, for "a -> b"`},
		{"a -> b\n\twhy\na -> b\n\twhy\n", "x:3: a mutant is listed twice"},
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("x", []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKnown("x"); err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%q: %v, want %q", row.text, err, row.want)
		}
	}
	save := func(text string) {
		if err := os.WriteFile("good", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save("tests: p q\nlater: TestB|TestC\na -> b\nc -> d\n\tof\n\tboth\n\ne -> f\n\tits own\n")
	k, err := readKnown("good")
	if want := map[string]string{"a -> b": "of both", "c -> d": "of both", "e -> f": "its own"}; err != nil ||
		!maps.Equal(k.reasons, want) || !slices.Equal(k.tests, []string{"p", "q"}) || k.later != "TestB|TestC" {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err := readKnown("none"); err != nil || len(k.reasons) > 0 {
		t.Errorf("a list that does not exist: %+v, %v", k, err)
	}
}

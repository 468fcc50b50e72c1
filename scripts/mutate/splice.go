package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Compiling and linking takes longer than most tests. So one program has as many mutants
// as possible, each behind a switch, and a variable of the environment says which one is
// on. With all of them off it does what the original does.

// variable is the number of the mutant that is on.
const variable = "UNPROXY_MUTANT"

// switches is what the changed files call. mutated_on(0) is never true.
const switches = `package %s

import (
	mutated_os "os"
	mutated_strconv "strconv"
)

var mutated_id = func() int {
	id, err := mutated_strconv.Atoi(mutated_os.Getenv("` + variable + `"))
	if err != nil || id == 0 {
		return -1
	}
	return id
}()

func mutated_on(id int) bool { return mutated_id == id }

type mutated_integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// mutated_near returns n, or its neighbour if a mutant is on.
func mutated_near[T mutated_integer](above, below int, n T) T {
	switch {
	case mutated_on(above):
		return n + 1
	case mutated_on(below):
		return n - 1
	}
	return n
}

func mutated_add[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a - b }; return a + b }
func mutated_sub[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a + b }; return a - b }
func mutated_mul[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a / b }; return a * b }
func mutated_quo[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a * b }; return a / b }
func mutated_rem[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a * b }; return a %% b }
func mutated_and[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a | b }; return a & b }
func mutated_or[T mutated_integer](id int, a, b T) T { if mutated_on(id) { return a & b }; return a | b }
`

// on is the switch of a mutant, as an expression.
func on(id int) string { return fmt.Sprintf("mutated_on(%d)", id) }

// place orders splices at one offset: what ends there comes before what begins there.
type place int

const (
	ending place = iota
	replacing
	beginning
)

// splice replaces some bytes of the source, mostly none, by text.
type splice struct {
	offset, removed int
	text            string
	place           place
}

// spliced returns the source with all splices, which come in the order in which the
// finder met them: from the outside to the inside.
func spliced(source []byte, all []splice) []byte {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := all[i], all[j]
		if d := cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.place, b.place)); d != 0 {
			return d
		}
		if a.place == ending {
			return cmp.Compare(j, i) // the innermost ends first
		}
		return cmp.Compare(i, j)
	})
	var text strings.Builder
	last := 0
	for _, i := range order {
		text.Write(source[last:all[i].offset])
		text.WriteString(all[i].text)
		last = all[i].offset + all[i].removed
	}
	text.Write(source[last:])
	return []byte(text.String())
}

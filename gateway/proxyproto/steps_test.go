package proxyproto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// stepsVariable is the environment variable with the name of the work and the size of a header, in a
// process that counts steps.
const stepsVariable = "PROXYPROTO_STEPS"

// stepWorks lists what is done with a header of a size. All must be linear in the size but the last, the
// control.
var stepWorks = []struct {
	name string
	do   func(size int)
}{
	{"empty TLVs", func(size int) { decodeOf(size, []byte{0xe0, 0, 0}) }},
	{"TLVs of one byte", func(size int) { decodeOf(size, []byte{0xea, 0, 1, 1}) }},
	{"SSL TLVs", func(size int) { decodeOf(size, []byte{0x20, 0, 5, 0, 0, 0, 0, 0}) }},
	{"TLVs in an SSL TLV", func(size int) {
		value := append(make([]byte, 5), bytes.Repeat([]byte{0x21, 0, 0}, size/3)...)
		decodeOf(size, append(binary.BigEndian.AppendUint16([]byte{0x20}, uint16(len(value))), value...))
	}},
	{"nested SSL TLVs", func(size int) {
		var value []byte
		for len(value)+8 <= size {
			inner := append(make([]byte, 5), value...)
			value = append(binary.BigEndian.AppendUint16([]byte{0x20}, uint16(len(inner))), inner...)
		}
		decodeOf(size, value)
	}},
	{"a header that arrives byte by byte", func(size int) {
		b := headerOf(size, []byte{0xe0, 0, 0})
		for i := range b {
			if _, err := Decode(b[:i+1], nil); err != nil {
				panic(err)
			}
		}
	}},
	{"a search for each TLV", func(size int) {
		b := headerOf(size, []byte{0xe0, 0, 0})[fixedLength+inetLength:]
		for range len(b) / 3 {
			Find(b, TypeALPN)
		}
	}},
}

// headerOf returns a header with as many of the TLVs as fit in a size. It runs no code of the package.
func headerOf(size int, tlv []byte) []byte {
	block := append(make([]byte, inetLength), bytes.Repeat(tlv, max(1, size/len(tlv)))...)
	b := binary.BigEndian.AppendUint16([]byte(Signature+"\x21\x11"), uint16(len(block)))
	return append(b, block...)
}

func decodeOf(size int, tlv []byte) {
	if h, err := Decode(headerOf(size, tlv), nil); err != nil || h.Result != Proxy {
		panic(fmt.Sprint(h, err))
	}
}

// A header of twice the size takes twice as many steps, whatever its TLVs are and however it arrives.
// Steps are the statements that run, as the coverage counters of this package count them in another
// process.
func TestStepsAreLinear(t *testing.T) {
	if work, size, ok := strings.Cut(os.Getenv(stepsVariable), ":"); ok {
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range stepWorks {
			if w.name == work {
				w.do(n)
			}
		}
		return
	}
	t.Parallel()
	program := filepath.Join(t.TempDir(), "steps")
	build := exec.Command("go", "test", "-c", "-vet=off", "-covermode=count", "-o", program, ".")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for i, w := range stepWorks {
		const size = 8000
		one, two := countSteps(t, program, w.name, size), countSteps(t, program, w.name, 2*size)
		t.Logf("%s: %d steps, %d for twice the size", w.name, one, two)
		linear := two <= 2*one+100
		if isControl := i == len(stepWorks)-1; linear == isControl {
			t.Errorf("%s: %d steps for %d bytes and %d for %d", w.name, one, size, two, 2*size)
		}
	}
}

// countSteps does a work in another process and returns the number of statements that ran.
func countSteps(t *testing.T, program, work string, size int) (steps int) {
	t.Helper()
	profile := filepath.Join(t.TempDir(), "profile")
	cmd := exec.Command(program, "-test.run=^TestStepsAreLinear$", "-test.coverprofile="+profile)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%d", stepsVariable, work, size))
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", work, err, output)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// file:from,to statements count
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue // "mode: count"
		}
		statements, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 != nil || err2 != nil {
			t.Fatalf("a line of the profile: %q", line)
		}
		steps += statements * count
	}
	return steps
}

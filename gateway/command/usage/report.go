package usage

import (
	"errors"
	"fmt"
	"io"

	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
)

// maxProblems is the number of problems that [Report] prints. The others are counted.
const maxProblems = 20

// Report prints each of the errors that err joins as a line "unproxy: error: …", and
// its hint as a line "unproxy: hint: …". It prints at most twenty, then the number of
// the others. It prints a hint that several errors share once, and skips errors of
// [Reported].
func Report(w io.Writer, err error) {
	printed := make(map[string]bool)
	count := 0
	for _, e := range config.Leaves(err) {
		if errors.As(e, new(reported)) {
			continue
		}
		if count++; count > maxProblems {
			continue
		}
		fmt.Fprintf(w, "unproxy: error: %s\n", value.OneLine(e.Error()))
		if hint := config.HintOf(e); hint != "" && !printed[hint] {
			printed[hint] = true
			fmt.Fprintf(w, "unproxy: hint: %s\n", value.OneLine(hint))
		}
	}
	if count > maxProblems {
		fmt.Fprintf(w, "unproxy: error: and %d more\n", count-maxProblems)
	}
}

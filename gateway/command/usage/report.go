package usage

import (
	"errors"
	"fmt"
	"io"

	"unproxy/gateway/config"
	"unproxy/gateway/config/value"
)

// maxProblems is how many problems [Report] prints. The rest is counted.
const maxProblems = 20

// Report prints the problems in err, each as a line "unproxy: error: …", with
// its hint in a line "unproxy: hint: …" below it. Joined errors are taken apart,
// so that an operator sees all problems at once. It prints at most twenty, then
// how many more there are; a hint that several problems share appears once.
// Errors made by [Reported] are skipped.
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

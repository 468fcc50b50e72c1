package migrate

import (
	"fmt"
	"io"

	"unproxy/gateway/command/usage"
)

// width is the maximum length of a line of a note.
const width = 92

// print writes the result as a shell script with comments: the new set-up first, then
// what to remove, so that the service is away for no longer than a restart.
func (r *result) print(w io.Writer) {
	fmt.Fprintln(w, "# 1. Check the configuration and this host.")
	r.command(w, "unproxy check")
	fmt.Fprintln(w, "\n# 2. Set up the return path: rules for these backends only.")
	r.command(w, "unproxy routes apply")
	fmt.Fprintln(w, "\n# 3. Stop go-mmproxy, and start the gateway. Then \"unproxy doctor\", with the same flags,")
	fmt.Fprintln(w, "# makes a test connection.")
	r.command(w, "unproxy")
	fmt.Fprintln(w, "\n# 4. Remove the old return path, which takes every packet from loopback, when the last instance")
	fmt.Fprintln(w, "# of go-mmproxy has moved and if no other program uses it. "+found(len(r.old)))
	for _, line := range r.old {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w, "\n# Notes")
	for _, text := range r.notes {
		for i, line := range usage.Wrap(text, width) {
			fmt.Fprintf(w, "#%s %s\n", [...]string{" -", "  "}[min(i, 1)], line)
		}
	}
}

// found says how many commands follow.
func found(n int) string {
	if n == 0 {
		return "This host has none."
	}
	return "On this host:"
}

// command writes a command with the flags, one a line.
func (r *result) command(w io.Writer, name string) {
	fmt.Fprint(w, name)
	for _, s := range r.flags {
		fmt.Fprintf(w, " \\\n    %s", s)
	}
	fmt.Fprintln(w)
}

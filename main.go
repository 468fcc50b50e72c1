// Command unproxy takes PROXY protocol headers off connections from trusted
// load balancers and forwards the payload to servers that know nothing of them.
package main

import (
	"os"

	"unproxy/gateway/command"
)

func main() {
	os.Exit(command.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

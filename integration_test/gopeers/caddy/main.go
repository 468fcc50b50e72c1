// Command caddy is Caddy with its layer 4 app, whose proxy sends PROXY headers.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/mholt/caddy-l4/layer4"
	_ "github.com/mholt/caddy-l4/modules/l4proxy"
)

func main() { caddycmd.Main() }

// Command pictures draws the diagrams of the README and of docs as SVG files:
//
//	go run ./scripts/pictures docs/pictures
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/pictures DIRECTORY")
		os.Exit(2)
	}
	for _, p := range pictures() {
		path := filepath.Join(os.Args[1], p.name+".svg")
		if err := os.WriteFile(path, []byte(p.svg()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
)

// bill is a CycloneDX document, with the fields that are used here:
// https://cyclonedx.org/docs/1.6/json/
type bill struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp,omitempty"`
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Purl       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// program is what the build information lacks.
type program struct {
	version, date string
	sum           [sha256.Size]byte // of the file
}

// describe returns the bill of materials. The serial number is a UUID of version 8,
// made of the program's checksum.
func describe(info *debug.BuildInfo, p program) bill {
	main := module("application", info.Main.Path, p.version)
	main.Hashes = []hash{{"SHA-256", hex.EncodeToString(p.sum[:])}}
	for _, s := range info.Settings {
		main.Properties = append(main.Properties, property{"go:build:" + s.Key, s.Value})
	}
	b := bill{
		Format: "CycloneDX", Spec: "1.6", Version: 1, Serial: serial(p.sum),
		Metadata: metadata{Timestamp: p.date, Component: main},
	}
	b.Components = append(b.Components, module("library", "std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := module("library", m.Path, m.Version)
		c.Properties = []property{{"go:module:h1", m.Sum}}
		b.Components = append(b.Components, c)
	}
	on := make([]string, 0, len(b.Components))
	for _, c := range b.Components {
		on = append(on, c.Ref)
	}
	b.Dependencies = []dependency{{Ref: main.Ref, On: on}}
	return b
}

// module returns a Go module as a component, with its package URL as reference:
// https://github.com/package-url/purl-spec
func module(kind, path, version string) component {
	purl := fmt.Sprintf("pkg:golang/%s@%s", path, version)
	return component{Ref: purl, Type: kind, Name: path, Version: version, Purl: purl}
}

func serial(sum [sha256.Size]byte) string {
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

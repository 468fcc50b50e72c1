package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// licence is that of one module.
type licence struct {
	module, version string
	name            string // its SPDX identifier
	text            string
}

// marks are words by which the text of each accepted licence is known. A text must be known
// as one licence. Those of the GNU project are not accepted: their terms would apply to the
// whole program.
var marks = []struct {
	name   string
	has    []string
	hasNot string // "" is nothing
}{
	{"Apache-2.0", []string{"Apache License", "TERMS AND CONDITIONS FOR USE"}, ""},
	{"MIT", []string{"Permission is hereby granted, free of charge", "The above copyright notice and this permission notice shall be"}, ""},
	{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms", "endorse or promote products"}, ""},
	{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms"}, "endorse or promote products"},
	{"MPL-2.0", []string{"Mozilla Public License", "2.0", "Covered Software"}, ""},
}

// choice begins the licence of libcap's modules: we take the first one.
const choice = "SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only"

// identify returns the name of the licence with the given text.
func identify(text string) (string, error) {
	flat := strings.ToLower(strings.Join(strings.Fields(text), " "))
	lacks := func(words string) bool { return !strings.Contains(flat, strings.ToLower(words)) }
	if !lacks(choice) {
		return "BSD-3-Clause", nil
	}
	var names []string
	for _, m := range marks {
		if !slices.ContainsFunc(m.has, lacks) && (m.hasNot == "" || lacks(m.hasNot)) {
			names = append(names, m.name)
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("not one of the accepted licences, but %q: %.80q", names, flat)
	}
	return names[0], nil
}

// licencesOf returns the licences of all modules of a program, Go's first.
func licencesOf(info *debug.BuildInfo) ([]licence, error) {
	directories, err := moduleDirectories(info)
	if err != nil {
		return nil, err
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	modules := append([]*debug.Module{{Path: "std", Version: goVersion}}, info.Deps...)
	var all []licence
	for _, m := range modules {
		if m.Replace != nil {
			m = m.Replace
		}
		l, err := readLicence(directories[m.Path+"@"+m.Version])
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", m.Path, m.Version, err)
		}
		l.module, l.version = m.Path, m.Version
		all = append(all, l)
	}
	return all, nil
}

// moduleDirectories returns where the modules of the program, and Go, are on this host, by
// name and version.
func moduleDirectories(info *debug.BuildInfo) (map[string]string, error) {
	args := []string{"list", "-m", "-json"}
	for _, m := range info.Deps {
		args = append(args, m.Path)
	}
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w\n%s", err, stderr.String())
	}
	directories := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(output)); ; {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list -m: %w", err)
		}
		directories[m.Path+"@"+m.Version] = m.Dir
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	directories["std@"+strings.TrimPrefix(info.GoVersion, "go")] = strings.TrimSpace(string(root))
	return directories, err
}

// readLicence reads the licence in the root of a module, and the notices that have to
// come with it.
func readLicence(directory string) (licence, error) {
	var l licence
	if directory == "" {
		return l, errors.New("not among the modules of this directory: was the program built from it?")
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return l, err
	}
	for _, kind := range []string{`(?i)^(licen[cs]e|copying)(\.(txt|md))?$`, `(?i)^notice(\.(txt|md))?$`} {
		for _, e := range entries {
			if !e.Type().IsRegular() || !regexp.MustCompile(kind).MatchString(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(directory, e.Name()))
			if err != nil {
				return l, err
			}
			if l.text == "" {
				if l.name, err = identify(string(text)); err != nil {
					return l, fmt.Errorf("%s: %w", filepath.Join(directory, e.Name()), err)
				}
			}
			l.text += strings.TrimSpace(string(text)) + "\n\n"
		}
		if l.text == "" {
			return l, fmt.Errorf("no licence in %s", directory)
		}
	}
	return l, nil
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// sources is a package with the types of its expressions.
type sources struct {
	name      string // as in the package clause
	files     []string
	texts     [][]byte
	trees     []*ast.File
	positions *token.FileSet
	types     types.Info
	pkg       *types.Package
}

// listed is the part of go list's answer that is used here.
type listed struct {
	ImportPath, Name, Export, Dir string
	GoFiles                       []string
	DepOnly                       bool
}

// readSources reads a package and checks its types.
func readSources(directory string) (*sources, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Name,Export,Dir,GoFiles,DepOnly", "./"+directory)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list ./%s: %w\n%s", directory, err, stderr.String())
	}
	exports := map[string]string{}
	var wanted listed
	for d := json.NewDecoder(bytes.NewReader(output)); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list ./%s: %w", directory, err)
		}
		exports[l.ImportPath] = l.Export
		if !l.DepOnly {
			wanted = l
		}
	}
	s := &sources{name: wanted.Name, positions: token.NewFileSet(), types: types.Info{Types: map[ast.Expr]types.TypeAndValue{}}}
	for _, file := range wanted.GoFiles {
		text, err := os.ReadFile(filepath.Join(wanted.Dir, file))
		if err != nil {
			return nil, err
		}
		tree, err := parser.ParseFile(s.positions, file, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.files, s.texts, s.trees = append(s.files, file), append(s.texts, text), append(s.trees, tree)
	}
	imports := importer.ForCompiler(s.positions, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})
	check := types.Config{Importer: imports}
	s.pkg, err = check.Check(wanted.ImportPath, s.positions, s.trees, &s.types)
	if err != nil {
		return nil, fmt.Errorf("types of ./%s: %w", directory, err)
	}
	return s, nil
}

// program is all mutants of a package.
type program struct {
	name     string // of the package
	mutants  []mutant
	switched map[string][]byte // the files with switches, by name
}

// mutate finds the mutants of a package.
func mutate(s *sources) program {
	p := program{name: s.name, switched: map[string][]byte{}}
	for i, tree := range s.trees {
		f := finder{sources: s, file: s.files[i], source: s.texts[i], seen: map[string]int{}, first: len(p.mutants) + 1}
		f.walk(tree)
		p.mutants = append(p.mutants, f.found...)
		p.switched[s.files[i]] = spliced(f.source, f.splices)
	}
	return p
}

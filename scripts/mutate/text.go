package main

import (
	"go/ast"
	"go/token"
	"strings"
)

// edit is a replacement of bytes of the source.
type edit struct {
	from, to int
	text     string
}

// next is the number of the mutant that is found next.
func (f *finder) next() int { return f.first + len(f.found) }

// mark notes that a mutant has its splices.
func (f *finder) mark(id int) { f.found[id-f.first].switched = true }

// surround puts text before and behind a node.
func (f *finder) surround(n ast.Node, before, behind string) {
	f.splices = append(f.splices, splice{f.offset(n.Pos()), 0, before, beginning})
	if behind != "" {
		f.splices = append(f.splices, splice{f.offset(n.End()), 0, behind, ending})
	}
}

// replace adds the mutant that has text in the place of a node.
func (f *finder) replace(n ast.Node, text string) {
	f.add(n, edit{f.offset(n.Pos()), f.offset(n.End()), text})
}

// add adds a mutant that changes n.
func (f *finder) add(n ast.Node, e edit) {
	from, to := f.offset(n.Pos()), f.offset(n.End())
	position := f.positions.Position(n.Pos())
	m := mutant{
		id: f.next(), file: f.file, function: f.function(), from: e.from, to: e.to, text: e.text,
		line: position.Line, column: position.Column,
	}
	if _, ok := n.(*ast.BasicLit); ok { // alone it says little
		from, to = f.around(n)
	}
	m.before = oneLine(string(f.source[from:to]))
	m.after = oneLine(string(f.source[from:e.from]) + e.text + string(f.source[e.to:to]))
	key := m.name()
	f.seen[key]++
	m.nth = f.seen[key]
	f.found = append(f.found, m)
}

// around returns the expression around a node.
func (f *finder) around(n ast.Node) (from, to int) {
	switch parent := f.path[len(f.path)-1].(type) {
	case *ast.CompositeLit, *ast.BlockStmt: // may be long
	default:
		n = parent
	}
	return f.offset(n.Pos()), f.offset(n.End())
}

// function names the declared function around the visited node.
func (f *finder) function() string {
	for _, n := range f.path {
		d, ok := n.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if d.Recv == nil || len(d.Recv.List) == 0 {
			return d.Name.Name
		}
		return strings.TrimPrefix(f.textOf(d.Recv.List[0].Type), "*") + "." + d.Name.Name
	}
	return ""
}

func (f *finder) offset(pos token.Pos) int { return f.positions.Position(pos).Offset }

func (f *finder) textOf(n ast.Node) string {
	return string(f.source[f.offset(n.Pos()):f.offset(n.End())])
}

package main

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// swaps are the operators and what replaces them: a boundary moves by one, or the
// meaning turns round.
var swaps = map[token.Token][]token.Token{
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR},
	token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD},
	token.MUL: {token.QUO}, token.QUO: {token.MUL}, token.REM: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.AND_NOT: {token.AND},
	token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN},
	token.OR_ASSIGN: {token.AND_ASSIGN}, token.AND_ASSIGN: {token.OR_ASSIGN},
	token.INC: {token.DEC}, token.DEC: {token.INC},
}

// switched are the functions of the switches that calculate.
var switched = map[token.Token]string{
	token.ADD: "mutated_add", token.SUB: "mutated_sub", token.MUL: "mutated_mul", token.QUO: "mutated_quo",
	token.REM: "mutated_rem", token.AND: "mutated_and", token.OR: "mutated_or",
}

// finder collects the mutants of one file, and the splices that put them behind switches.
type finder struct {
	*sources
	file    string
	source  []byte
	first   int // number of the first mutant
	found   []mutant
	splices []splice
	seen    map[string]int
	path    []ast.Node // from the file to the node that is visited
}

// walk finds the mutants in the order of the text.
func (f *finder) walk(tree *ast.File) {
	ast.Inspect(tree, func(n ast.Node) bool {
		if n == nil {
			f.path = f.path[:len(f.path)-1]
			return true
		}
		f.visit(n)
		f.path = append(f.path, n)
		return true
	})
}

func (f *finder) visit(n ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		f.binary(n)
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.turn(n, f.textOf(n.X))
		}
	case *ast.AssignStmt:
		f.statement(n, n.Tok, n.TokPos)
	case *ast.IncDecStmt:
		f.statement(n, n.Tok, n.TokPos)
	case *ast.BasicLit:
		f.neighbours(n)
	case *ast.IfStmt:
		f.negate(n.Cond)
	case *ast.ForStmt:
		if n.Cond != nil {
			f.negate(n.Cond)
		}
	case *ast.SwitchStmt:
		f.negateCases(n)
	case *ast.ExprStmt:
		f.skip(n, n.X)
	case *ast.DeferStmt:
		f.skip(n, n.Call)
	case *ast.GoStmt:
		f.skip(n, n.Call)
	case *ast.ReturnStmt:
		f.zeros(n)
	}
}

// binary replaces an operator.
func (f *finder) binary(n *ast.BinaryExpr) {
	of := f.types.Types[n]
	if basic, ok := of.Type.Underlying().(*types.Basic); ok && basic.Info()&types.IsString != 0 {
		return // the only operator joins
	}
	first := f.next()
	for _, other := range swaps[n.Op] {
		f.add(n, edit{f.offset(n.OpPos), f.offset(n.OpPos) + len(n.Op.String()), other.String()})
	}
	switch n.Op {
	case token.LAND, token.LOR:
		f.spliceLogic(n, first)
		f.negate(n.X)
		f.negate(n.Y)
	case token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
		f.spliceComparison(n, first)
	default:
		f.spliceArithmetic(n, first)
	}
}

// spliceLogic makes a && b to !(!a && !b), which is a || b, and the other way round. It
// evaluates b only when the operator does.
func (f *finder) spliceLogic(n *ast.BinaryExpr, id int) {
	if f.isConstant(n) {
		return
	}
	for _, e := range []ast.Expr{n, n.X, n.Y} {
		f.surround(e, "((", ") != "+on(id)+")")
	}
	f.mark(id)
}

// spliceComparison negates the comparison, or adds or takes away that both are equal.
func (f *finder) spliceComparison(n *ast.BinaryExpr, first int) {
	if f.isConstant(n) {
		return
	}
	both := "(" + f.textOf(n.X) + ") == (" + f.textOf(n.Y) + ")"
	negated, equal := first, ""
	switch n.Op {
	case token.LSS, token.GTR:
		negated, equal = first+1, " || "+on(first)+" && "+both
	case token.LEQ, token.GEQ:
		negated, equal = first+1, " && !("+on(first)+" && "+both+")"
	}
	if equal != "" && (calls(n.X) || calls(n.Y)) { // a call must not be made twice
		equal = ""
	}
	f.surround(n, "((", equal+") != "+on(negated)+")")
	f.mark(negated)
	if equal != "" {
		f.mark(first)
	}
}

// calls reports whether an expression calls something that may have an effect.
func calls(e ast.Expr) (yes bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name, ok := n.Fun.(*ast.Ident)
			yes = yes || !ok || !slices.Contains([]string{"len", "cap", "int", "byte", "uint16", "uint32", "uint64"}, name.Name)
		case *ast.UnaryExpr:
			yes = yes || n.Op == token.ARROW
		}
		return true
	})
	return yes
}

// spliceArithmetic turns an operator on integers into a call.
func (f *finder) spliceArithmetic(n *ast.BinaryExpr, id int) {
	function, of := switched[n.Op], f.types.Types[n]
	name := f.integer(of.Type)
	if function == "" || name == "" || f.isConstant(n) {
		return
	}
	f.surround(n, function+"["+name+"]("+strconv.Itoa(id)+", ", ")")
	f.splices = append(f.splices, splice{f.offset(n.OpPos), len(n.Op.String()), ",", replacing})
	f.mark(id)
}

// integer returns the name of a type of integers, "" if it is none or has no name here.
func (f *finder) integer(t types.Type) string {
	basic, ok := t.Underlying().(*types.Basic)
	if !ok || basic.Info()&types.IsInteger == 0 || basic.Info()&types.IsUntyped != 0 {
		return ""
	}
	foreign := false
	name := types.TypeString(t, func(p *types.Package) string {
		foreign = foreign || p != f.pkg
		return ""
	})
	if _, parameter := t.(*types.TypeParam); foreign || parameter {
		return ""
	}
	return name
}

// isConstant reports whether an expression has to remain one: its value is known, or it is
// part of a declaration of constants.
func (f *finder) isConstant(e ast.Expr) bool {
	return f.types.Types[e].Value != nil || f.needsConstant(e)
}

// needsConstant reports whether the node is where the language demands a constant.
func (f *finder) needsConstant(n ast.Node) bool {
	for _, outer := range slices.Backward(f.path) {
		switch outer := outer.(type) {
		case *ast.GenDecl:
			return outer.Tok == token.CONST
		case *ast.ArrayType:
			return true
		case *ast.KeyValueExpr:
			if n.Pos() < outer.Colon && !f.inMap(outer) {
				return true
			}
		case ast.Stmt:
			return false
		}
	}
	return false
}

// inMap reports whether an element is one of a map.
func (f *finder) inMap(element *ast.KeyValueExpr) bool {
	for i, n := range f.path {
		if n != element || i == 0 {
			continue
		}
		if literal, ok := f.path[i-1].(*ast.CompositeLit); ok {
			_, ok := f.types.Types[literal].Type.Underlying().(*types.Map)
			return ok
		}
	}
	return false
}

// turn negates a condition, by the text that the mutant alone has.
func (f *finder) turn(e ast.Expr, text string) {
	id := f.next()
	f.replace(e, text)
	if f.isConstant(e) {
		return
	}
	f.surround(e, "((", ") != "+on(id)+")")
	f.mark(id)
}

// negate turns a condition round that neither an operator nor "!" turns.
func (f *finder) negate(e ast.Expr) {
	switch inner := ast.Unparen(e).(type) {
	case *ast.BinaryExpr:
		return
	case *ast.UnaryExpr:
		if inner.Op == token.NOT {
			return
		}
	}
	f.turn(e, "!("+f.textOf(e)+")")
}

// negateCases negates the cases of a switch that has no value to compare them with.
func (f *finder) negateCases(n *ast.SwitchStmt) {
	if n.Tag != nil {
		return
	}
	for _, clause := range n.Body.List {
		for _, e := range clause.(*ast.CaseClause).List {
			f.negate(e)
		}
	}
}

// statement replaces the operator of a statement.
func (f *finder) statement(n ast.Stmt, operator token.Token, pos token.Pos) {
	if assignment, ok := n.(*ast.AssignStmt); ok && len(swaps[operator]) > 0 {
		basic, ok := f.types.Types[assignment.Lhs[0]].Type.Underlying().(*types.Basic)
		if ok && basic.Info()&types.IsString != 0 {
			return
		}
	}
	for _, other := range swaps[operator] {
		id, from := f.next(), f.offset(pos)
		e := edit{from, from + len(operator.String()), other.String()}
		f.add(n, e)
		if f.inBlock() {
			changed := string(f.source[f.offset(n.Pos()):from]) + e.text + string(f.source[e.to:f.offset(n.End())])
			f.surround(n, "if "+on(id)+" { "+changed+" } else { ", " }")
			f.mark(id)
		}
	}
}

// inBlock reports whether the visited statement is one of a list.
func (f *finder) inBlock() bool {
	switch f.path[len(f.path)-1].(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
		return true
	}
	return false
}

// neighbours replaces an integer by the one above and the one below.
func (f *finder) neighbours(n *ast.BasicLit) {
	if n.Kind != token.INT {
		return
	}
	value, exact := constant.Int64Val(constant.MakeFromLiteral(n.Value, n.Kind, 0))
	if !exact {
		return
	}
	above, below := f.next(), 0
	f.replace(n, strconv.FormatInt(value+1, 10))
	if value > 0 {
		below = f.next()
		f.replace(n, strconv.FormatInt(value-1, 10))
	}
	name := f.integer(f.types.Types[n].Type)
	if name == "" || f.needsConstant(n) {
		return
	}
	f.surround(n, "mutated_near["+name+"]("+strconv.Itoa(above)+", "+strconv.Itoa(below)+", ", ")")
	f.mark(above)
	if below > 0 {
		f.mark(below)
	}
}

// skip leaves a call out. It stays in the text, so that nothing is unused.
func (f *finder) skip(n ast.Stmt, call ast.Expr) {
	if c, ok := call.(*ast.CallExpr); !ok || f.textOf(c.Fun) == "panic" { // without which a return may be missing
		return
	}
	id := f.next()
	f.replace(n, "if false { "+f.textOf(n)+" }")
	if f.inBlock() {
		f.surround(n, "if !"+on(id)+" { ", " }")
		f.mark(id)
	}
}

// zeros returns the zero value in the place of each result, and true in the place of false.
func (f *finder) zeros(n *ast.ReturnStmt) {
	results := f.resultTypes()
	if len(n.Results) == 0 || len(results) == 0 {
		return
	}
	if len(n.Results) != len(results) { // return f()
		var all []string
		for _, t := range results {
			all = append(all, zero(t))
		}
		f.earlier(n, all)
		return
	}
	var texts []string
	for _, e := range n.Results {
		texts = append(texts, f.textOf(e))
	}
	for i, text := range texts {
		other := zero(results[i])
		switch {
		case text == "false":
			other = "true"
		case text == "nil" || text == "0" || text == `""` || strings.HasSuffix(text, "{}"):
			continue
		}
		changed := slices.Clone(texts)
		changed[i] = other
		f.earlier(n, changed)
	}
}

// earlier returns other results before the statement does.
func (f *finder) earlier(n *ast.ReturnStmt, results []string) {
	id, instead := f.next(), "return "+strings.Join(results, ", ")
	f.replace(n, "if true { "+instead+" }; "+f.textOf(n))
	f.found[len(f.found)-1].after = oneLine(instead)
	if f.inBlock() {
		f.surround(n, "if "+on(id)+" { "+instead+" }; ", "")
		f.mark(id)
	}
}

func zero(typ string) string {
	switch typ {
	case "bool":
		return "false"
	case "string":
		return `""`
	case "error":
		return "nil"
	case "int":
		return "0"
	}
	return "*new(" + typ + ")"
}

// resultTypes returns the results of the innermost function, each as text.
func (f *finder) resultTypes() (all []string) {
	for _, n := range slices.Backward(f.path) {
		var signature *ast.FuncType
		switch n := n.(type) {
		case *ast.FuncDecl:
			signature = n.Type
		case *ast.FuncLit:
			signature = n.Type
		default:
			continue
		}
		if signature.Results == nil {
			return nil
		}
		for _, field := range signature.Results.List {
			for range max(1, len(field.Names)) {
				all = append(all, f.textOf(field.Type))
			}
		}
		return all
	}
	return nil
}

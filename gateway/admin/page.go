package admin

import (
	"embed"
	"net/http"
	"path"
)

// page is the status page: a document, its style, and its script in modules. It
// asks for /status.json and /connections.json like anybody else.
//
//go:embed page/index.html page/*.css page/*.js
var page embed.FS

// pageKinds are the content types of its files. The tables of the host, which
// package mime goes by, may say anything.
var pageKinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
}

// pagePolicy is what the page may do (Content Security Policy, level 3): nothing
// but what the endpoint serves itself. Text from the network cannot become
// markup, for the script may not turn any text into markup (Trusted Types).
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// addPage serves the status page: the document at /, and what it needs in
// /page/.
func addPage(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { servePage(w, "index.html") })
	mux.HandleFunc("GET /page/{file}", func(w http.ResponseWriter, r *http.Request) { servePage(w, r.PathValue("file")) })
}

// servePage answers with a file of the page.
func servePage(w http.ResponseWriter, name string) {
	content, err := page.ReadFile(path.Join("page", name))
	if err != nil {
		writeProblem(w, http.StatusNotFound, "the status page has no such file")
		return
	}
	h := w.Header()
	h.Set("Content-Type", pageKinds[path.Ext(name)])
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(content)
}

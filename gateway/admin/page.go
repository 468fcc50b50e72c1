package admin

import (
	"embed"
	"net/http"
	"path"
)

// page is the status page: a document, a stylesheet, and a script in modules. It
// polls /status.json, /connections.json and /bans.json, like any other client of the endpoint.
//
//go:embed page/index.html page/*.css page/*.js
var page embed.FS

// pageTypes are the content types of the page's files. Package mime would take them
// from tables of the host, which may differ.
var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
}

// pagePolicy restricts the page to what the endpoint itself serves (Content Security
// Policy, level 3). Text from the network cannot become markup, because the script
// may not turn any text into markup (Trusted Types).
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; " +
	"img-src 'self' data:; connect-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// addPage adds the status page: the document at / and its files at /page/.
func addPage(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { servePage(w, "index.html") })
	mux.HandleFunc("GET /page/{file}", func(w http.ResponseWriter, r *http.Request) { servePage(w, r.PathValue("file")) })
}

// servePage answers with a file of the status page.
func servePage(w http.ResponseWriter, name string) {
	content, err := page.ReadFile(path.Join("page", name))
	if err != nil {
		writeError(w, http.StatusNotFound, "no such file of the status page")
		return
	}
	h := w.Header()
	h.Set("Content-Type", pageTypes[path.Ext(name)])
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(content)
}

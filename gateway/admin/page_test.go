package admin

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// All files of the page are served, with their content type and the policy.
func TestPage(t *testing.T) {
	s := newServer(quiet(), nearby)
	document := ask(s, "GET", "/")
	wanted := map[string]string{"/": "text/html; charset=utf-8", "/page/style.css": "text/css; charset=utf-8"}
	for _, m := range regexp.MustCompile(`(?:src|href)="(page/[^"]+)"`).FindAllStringSubmatch(document.Body.String(), -1) {
		if strings.HasSuffix(m[1], ".js") {
			wanted["/"+m[1]] = "text/javascript; charset=utf-8"
		}
	}
	modules, err := page.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range modules {
		if strings.HasSuffix(f.Name(), ".js") {
			wanted["/page/"+f.Name()] = "text/javascript; charset=utf-8"
		}
	}
	if len(wanted) < 8 {
		t.Errorf("the page has only the files %v", wanted)
	}
	for path, kind := range wanted {
		w := ask(s, "GET", path)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != kind || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s, %d bytes", path, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		policy := strings.Split(w.Header().Get("Content-Security-Policy"), "; ")
		for _, directive := range []string{
			"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
			"frame-ancestors 'none'", "require-trusted-types-for 'script'",
		} {
			if !slices.Contains(policy, directive) {
				t.Errorf("%s: the policy %q lacks %q", path, policy, directive)
			}
		}
	}
	for _, path := range []string{"/page/", "/page/nothing.js", "/page/..%2Fserver.go", "/index.html"} {
		if w := ask(s, "GET", path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := ask(s, "POST", "/"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /: %d", w.Code)
	}
}

// No file of the page turns text into markup or refers to another host.
func TestPageIsSelfContained(t *testing.T) {
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|` +
		`\beval\b|new Function|https?://|//[a-z]+\.`)
	namespace := regexp.MustCompile(`http://www\.w3\.org/2000/svg`) // a name, never fetched
	files, err := page.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content, err := page.ReadFile("page/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.Find(namespace.ReplaceAll(content, nil)); found != nil {
			t.Errorf("%s has %q", f.Name(), found)
		}
	}
}

package packages_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// instruction is one instruction of a Dockerfile, with its continuation lines joined.
type instruction struct {
	name, text string
	ignored    string // rules that a hadolint comment before it names
}

// instructions parses a Dockerfile.
func instructions(text string) (all []instruction) {
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	ignored := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rules, ok := strings.CutPrefix(line, "# hadolint ignore="); ok {
			ignored = rules
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		all = append(all, instruction{name: name, text: strings.TrimSpace(rest), ignored: ignored})
		ignored = ""
	}
	return all
}

// rules are those of hadolint that concern instructions one by one.
var rules = []struct {
	code, instruction string
	applies           string // the rule concerns texts that match this
	must, mustNot     string // such texts must match one and not the other, unless empty
}{
	{"DL3000", "WORKDIR", "", `^/`, ""},
	{"DL3003", "RUN", "", "", `(^|&& )cd `},
	{"DL3004", "RUN", "", "", `\bsudo\b`},
	{"DL3006", "FROM", "", `:|^scratch$`, ""},
	{"DL3007", "FROM", "", "", `:latest\b`},
	{"DL3008", "RUN", "", "", `apt-get install( -\S+)* [a-z0-9-]+( |$)`},
	{"DL3009", "RUN", `apt-get update`, `rm -rf /var/lib/apt/lists`, ""},
	{"DL3014", "RUN", `apt-get install`, ` -y\b`, ""},
	{"DL3015", "RUN", `apt-get install`, `--no-install-recommends`, ""},
	{"DL3020", "ADD", "", "", `.`},
	{"DL3025", "CMD", "", `^\[`, ""},
	{"DL3025", "ENTRYPOINT", "", `^\[`, ""},
	{"DL3027", "RUN", "", "", `\bapt (install|update)`},
	{"DL4000", "MAINTAINER", "", "", `.`},
}

// lint returns the codes of the rules that a Dockerfile breaks.
func lint(text string) (broken []string) {
	all := instructions(text)
	for _, i := range all {
		for _, r := range rules {
			if i.name != r.instruction || strings.Contains(i.ignored, r.code) || !matches(r.applies, i.text) {
				continue
			}
			if !matches(r.must, i.text) || r.mustNot != "" && matches(r.mustNot, i.text) {
				broken = append(broken, r.code)
			}
		}
	}
	return append(broken, lintWhole(all)...)
}

func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }

// lintWhole returns the codes of the rules that concern several instructions.
func lintWhole(all []instruction) (broken []string) {
	count, user, pipefail := make(map[string]int), "", false
	for k, i := range all {
		count[i.name]++
		switch i.name {
		case "FROM":
			count["CMD"], count["ENTRYPOINT"], count["HEALTHCHECK"], pipefail = 0, 0, 0, false
		case "USER":
			user = i.text
		case "SHELL":
			pipefail = strings.Contains(i.text, "pipefail")
		case "RUN":
			if strings.Contains(i.text, " | ") && !pipefail {
				broken = append(broken, "DL4006")
			}
			if k > 0 && all[k-1].name == "RUN" {
				broken = append(broken, "DL3059")
			}
		}
	}
	for name, code := range map[string]string{"CMD": "DL4003", "ENTRYPOINT": "DL4004", "HEALTHCHECK": "DL3012"} {
		if count[name] > 1 {
			broken = append(broken, code)
		}
	}
	if user == "root" || strings.HasPrefix(user, "0") {
		broken = append(broken, "DL3002")
	}
	return broken
}

// The Dockerfiles break no rule. The image of the gateway is built by the script that the
// tests use, and is the program alone, run by a user without rights.
func TestDockerfiles(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"Dockerfile", "compose/sshd/Dockerfile"} {
		if broken := lint(readFile(t, "../../scripts/package/"+path)); len(broken) > 0 {
			t.Errorf("%s breaks %q", path, broken)
		}
	}
	all := instructions(readFile(t, "../../scripts/package/Dockerfile"))
	last := 0
	for k, i := range all {
		if i.name == "FROM" {
			last = k
		}
		if i.name == "RUN" && !strings.HasPrefix(i.text, "./scripts/package/rootfs /rootfs") {
			t.Errorf("the image is built by %s", i.text)
		}
	}
	want := []string{"FROM scratch", "COPY --from=build /rootfs /", "USER 65532:65532", `ENTRYPOINT ["/unproxy"]`}
	for _, w := range want {
		if !slices.ContainsFunc(all[last:], func(i instruction) bool { return i.name+" "+i.text == w }) {
			t.Errorf("the image lacks %s", w)
		}
	}
	if _, err := os.Stat(filepath.Join("../../scripts/package/rootfs")); err != nil {
		t.Error(err)
	}
}

// Each rule is found broken where it is.
func TestLint(t *testing.T) {
	t.Parallel()
	for code, text := range map[string]string{
		"DL3000": "WORKDIR src",
		"DL3002": "USER root",
		"DL3003": "RUN cd /src && make",
		"DL3004": "RUN sudo make",
		"DL3006": "FROM debian",
		"DL3007": "FROM debian:latest",
		"DL3008": "RUN apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*",
		"DL3009": "RUN apt-get update && apt-get install -y --no-install-recommends curl=7",
		"DL3012": "HEALTHCHECK NONE\nHEALTHCHECK NONE",
		"DL3014": "RUN apt-get update && apt-get install --no-install-recommends curl=7 && rm -rf /var/lib/apt/lists/*",
		"DL3015": "RUN apt-get update && apt-get install -y curl=7 && rm -rf /var/lib/apt/lists/*",
		"DL3020": "ADD . .",
		"DL3025": "CMD serve",
		"DL3027": "RUN apt install curl",
		"DL3059": "RUN a\nRUN b",
		"DL4000": "MAINTAINER me",
		"DL4003": "CMD [\"a\"]\nCMD [\"b\"]",
		"DL4004": "ENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]",
		"DL4006": "RUN a | b",
	} {
		if broken := lint(text); !slices.Contains(broken, code) {
			t.Errorf("%q breaks %q, want %s", text, broken, code)
		}
	}
}

package command

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"unproxy/gateway/command/usage"
)

// The linker sets these in a release (-X), so that the program knows its version where
// the source has no version control. They are empty in other builds.
var release, commit, date string

// version is the version of the program, from the linker or the build information.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisVersion returns the version of the running program.
func thisVersion() version {
	v := version{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if release != "" {
		v.Version, v.Revision, v.Time = release, commit, date
		return v
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String returns the version in one line.
func (v version) String() string {
	line := "unproxy " + v.Version
	if v.Revision != "" {
		line += " revision " + v.Revision[:min(12, len(v.Revision))]
	}
	if v.Time != "" {
		line += " of " + v.Time
	}
	if v.Modified {
		line += " (modified)"
	}
	return fmt.Sprintf("%s %s %s", line, v.Go, v.Platform)
}

// versionCommand returns "unproxy version".
func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: "Example:\n  unproxy version --json",
		Flags:       []cli.Flag{usage.JSONFlag()},
		Action:      func(ctx *cli.Context) error { return printVersion(ctx.App.Writer, ctx.Bool("json")) },
	}
}

// printVersion prints the version in one line or as JSON.
func printVersion(w io.Writer, asJSON bool) error {
	if asJSON {
		return usage.PrintJSON(w, thisVersion())
	}
	_, err := fmt.Fprintln(w, thisVersion())
	return err
}

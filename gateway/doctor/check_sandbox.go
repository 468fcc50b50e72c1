package doctor

import (
	"context"
	"strings"

	"unproxy/gateway/sandbox"
)

// checkSandbox reports what the running gateway has given up, or what this kernel
// supports if there is no running gateway to ask.
func (r *run) checkSandbox(context.Context) []Finding {
	if r.Sandbox == nil {
		return []Finding{supported(r.Config.Sandbox)}
	}
	s := r.Sandbox()
	switch {
	case s.Mode == sandbox.Off.String():
		return []Finding{finding(Sandbox, "process", OK, "off; %s", s)}
	case len(s.Missing) > 0:
		f := finding(Sandbox, "process", Warn, "%s; missing: %s", s, strings.Join(s.Missing, "; "))
		return []Finding{f.with("# Landlock needs Linux 5.13 and lsm=landlock among the kernel's parameters")}
	}
	return []Finding{finding(Sandbox, "process", OK, "%s", s)}
}

// supported reports whether a gateway on this kernel can restrict its files.
func supported(mode sandbox.Mode) Finding {
	version := sandbox.LandlockVersion()
	switch {
	case mode == sandbox.Off:
		return finding(Sandbox, "process", OK, "off")
	case version == 0 && mode == sandbox.Strict:
		return finding(Sandbox, "process", Fail, "this kernel does not offer Landlock, which --sandbox strict requires").
			with("# --sandbox auto; or Linux 5.13 with lsm=landlock among the kernel's parameters")
	case version == 0:
		return finding(Sandbox, "process", OK, "this kernel does not offer Landlock: files are not restricted")
	}
	return finding(Sandbox, "process", OK, "this kernel offers Landlock %d", version)
}

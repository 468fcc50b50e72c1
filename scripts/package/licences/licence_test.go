package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// Texts by their decisive words. What is unknown, or known as two licences, is refused.
func TestIdentify(t *testing.T) {
	const (
		apache = "Apache License\nVersion 2.0, January 2004\n\nTERMS AND CONDITIONS FOR USE, REPRODUCTION"
		mit    = "PERMISSION is hereby granted,\nfree of charge, to any person ...\nThe above copyright notice and this permission notice shall be included"
		bsd2   = "Redistribution and use in source and binary\n forms, with or without modification"
		bsd3   = bsd2 + "Neither the name ... may be used to endorse or\npromote products"
		mpl    = "Mozilla Public License, version 2.0\n \"Covered Software\" ... GNU General Public License"
		libcap = "/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */\n" + bsd3 + "GNU GENERAL PUBLIC LICENSE"
	)
	for _, row := range []struct{ text, want string }{
		{apache, "Apache-2.0"}, {mit, "MIT"}, {bsd2, "BSD-2-Clause"}, {bsd3, "BSD-3-Clause"}, {mpl, "MPL-2.0"},
		{libcap, "BSD-3-Clause"},
		{"", ""},
		{"All rights reserved.", ""},
		{"GNU GENERAL PUBLIC LICENSE Version 3", ""},
		{"GNU AFFERO GENERAL PUBLIC LICENSE", ""},
		{"Business Source License 1.1", ""},
		{mit + mpl, ""},
	} {
		name, err := identify(row.text)
		if name != row.want || (err != nil) != (row.want == "") {
			t.Errorf("%.60q: %q, %v; want %q", row.text, name, err, row.want)
		}
	}
}

// A module without a licence, or with an unknown one, is an error that names the module's
// directory; notices are kept beside the licence.
func TestReadLicence(t *testing.T) {
	const mit = "Permission is hereby granted, free of charge. The above copyright notice and this permission notice shall be"
	for _, row := range []struct {
		files map[string]string
		want  string // in the text or the error
		fails bool
	}{
		{map[string]string{"LICENSE": mit, "NOTICE": "by Somebody", "main.go": "x"}, "by Somebody", false},
		{map[string]string{"License": mit}, "Permission", false},
		{map[string]string{"COPYING.md": mit}, "Permission", false},
		{map[string]string{"NOTICE": mit}, "no licence", true},
		{map[string]string{"LICENSE.go": mit}, "no licence", true},
		{map[string]string{"LICENSE": "Pay me."}, "not one of the accepted", true},
	} {
		dir := t.TempDir()
		for name, text := range row.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := readLicence(dir)
		got := l.text
		if err != nil {
			got = err.Error()
		}
		if (err != nil) != row.fails || !strings.Contains(got, row.want) {
			t.Errorf("%q: %q, %v; want %q", row.files, l.text, err, row.want)
		}
	}
}

// A module that is not among those of go.mod was not built from here: nothing vouches for
// its licence.
func TestForeignModule(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26", Deps: []*debug.Module{{Path: "golang.org/x/sys", Version: "v0.0.1"}}}
	if _, err := licencesOf(info); err == nil || !strings.Contains(err.Error(), "golang.org/x/sys v0.0.1: not among") {
		t.Errorf("error %v", err)
	}
}

package packages_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// checkBill compares the bill of materials with the build information of the program,
// and checks what the CycloneDX 1.6 schema requires of the fields that it has.
func checkBill(t *testing.T, dist, architecture string) {
	var bill struct {
		BomFormat, SpecVersion, SerialNumber string
		Metadata                             struct {
			Timestamp string
			Component struct {
				Name, Version string
				Hashes        []struct{ Alg, Content string }
			}
		}
		Components []struct {
			Ref  string `json:"bom-ref"`
			Type string
			Purl string
		}
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, found(t, dist, "*-"+architecture+".cdx.json"))), &bill); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dist, "unproxy-linux-"+architecture)
	main, sum := bill.Metadata.Component, fmt.Sprintf("%x", sha256.Sum256([]byte(readFile(t, program))))
	if bill.BomFormat != "CycloneDX" || bill.SpecVersion != "1.6" || bill.Metadata.Timestamp != date ||
		main.Name != "unproxy" || main.Version != "1.2.3" || len(main.Hashes) != 1 || main.Hashes[0].Content != sum {
		t.Errorf("the document is of %+v, %s %s", bill.Metadata, bill.BomFormat, bill.SpecVersion)
	}
	serial := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	if !serial.MatchString(bill.SerialNumber) {
		t.Errorf("serial number %q", bill.SerialNumber)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, fmt.Sprintf("pkg:golang/%s@%s", m.Path, m.Version))
	}
	var got []string
	for _, c := range bill.Components {
		if c.Type != "library" || c.Ref != c.Purl {
			t.Errorf("component %+v", c)
		}
		got = append(got, c.Purl)
	}
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("components\n%q\nwant\n%q", got, want)
	}
	if len(bill.Dependencies) != 1 || !slices.Equal(bill.Dependencies[0].DependsOn, want) {
		t.Errorf("dependencies %q", bill.Dependencies)
	}
}

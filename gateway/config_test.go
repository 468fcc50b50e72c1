package gateway

import (
	"strings"

	"unproxy/gateway/config"
)

// load loads forwards with settings written as "name value". It trusts
// 10.0.0.0/8 unless they say otherwise.
func load(forwards []string, given ...string) (*config.Config, []config.Warning, error) {
	values := config.Values{}
	for _, g := range given {
		name, text, _ := strings.Cut(g, " ")
		values[name] = append(values[name], text)
	}
	if values["trust"] == nil && values["trust-file"] == nil {
		values["trust"] = []string{"10.0.0.0/8"}
	}
	return config.Load(config.Source{Forwards: forwards, Settings: values})
}

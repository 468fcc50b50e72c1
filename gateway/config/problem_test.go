package config

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestLeaves(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b"), errors.New("c")
	if got := Leaves(errors.Join(a, errors.Join(b, c))); !slices.Equal(got, []error{a, b, c}) {
		t.Errorf("got %v", got)
	}
	wrapped := fmt.Errorf("w: %w", a)
	if got := Leaves(wrapped); !slices.Equal(got, []error{wrapped}) {
		t.Errorf("got %v", got)
	}
	if got := Leaves(nil); got != nil {
		t.Errorf("got %v of nil", got)
	}
}

func TestHintOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("x"), ""},
		{NewProblem("x", "y"), "y"},
		{fmt.Errorf("x: %w", NewProblem("x", "y")), "y"},
	} {
		if got := HintOf(tt.err); got != tt.want {
			t.Errorf("hint of %v is %q; want %q", tt.err, got, tt.want)
		}
	}
}

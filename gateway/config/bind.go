package config

import (
	"fmt"
	"io/fs"
	"time"

	"unproxy/gateway/config/value"
)

// binding parses the texts given for a setting, at least one, and stores the
// value. The error is a [value.Error].
type binding[T any] func(into *T, texts []string) error

// last returns the text that applies if several were given.
func last(texts []string) string { return texts[len(texts)-1] }

// duration binds a duration that is zero or from least to most.
func duration[T any](least, most time.Duration, at func(*T) *time.Duration) binding[T] {
	return func(into *T, texts []string) (err error) {
		*at(into), err = value.Duration(last(texts), least, most)
		return err
	}
}

// number binds a whole number from 0 to most.
func number[T any, N int | uint32](most uint64, at func(*T) *N) binding[T] {
	return func(into *T, texts []string) error {
		n, err := value.Count(last(texts), most)
		*at(into) = N(n)
		return err
	}
}

// onOff binds a switch.
func onOff[T any](at func(*T) *bool) binding[T] {
	return func(into *T, texts []string) (err error) {
		*at(into), err = value.Switch(last(texts))
		return err
	}
}

// either binds one of two words; yes stands for true.
func either[T any](at func(*T) *bool, no, yes string) binding[T] {
	return func(into *T, texts []string) error {
		i, err := value.Word(last(texts), no, yes)
		*at(into) = i == 1
		return err
	}
}

// word binds one of several values, which are written as their String.
func word[T any, W fmt.Stringer](at func(*T) *W, values ...W) binding[T] {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = v.String()
	}
	return func(into *T, texts []string) error {
		i, err := value.Word(last(texts), words...)
		if err == nil {
			*at(into) = values[i]
		}
		return err
	}
}

// index binds the index of one of several words.
func index[T any, N ~uint8](at func(*T) *N, words ...string) binding[T] {
	return func(into *T, texts []string) error {
		i, err := value.Word(last(texts), words...)
		*at(into) = N(max(0, i))
		return err
	}
}

// mode binds the permission bits of a file, 0 to 0777 (chmod(2)).
func mode[T any](at func(*T) *fs.FileMode) binding[T] {
	return func(into *T, texts []string) error {
		bits, err := value.Mode(last(texts))
		*at(into) = fs.FileMode(bits)
		return err
	}
}

// rules binds the rules of an address list.
func rules(kind listKind) binding[draft] {
	return func(d *draft, texts []string) error {
		d.lists[kind].rules = texts
		return nil
	}
}

// files binds the files of an address list.
func files(kind listKind) binding[draft] {
	return func(d *draft, texts []string) error {
		d.lists[kind].files = texts
		return nil
	}
}

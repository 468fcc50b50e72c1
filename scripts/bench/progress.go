package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress prints what is being measured and how long it will take.
type progress struct {
	out      io.Writer
	terminal bool
	total, k int
	guess    time.Duration // of one run, before the first one
	start    time.Time
}

func newProgress(out *os.File, total int, duration time.Duration) progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return progress{out: out, terminal: err == nil, total: total, guess: duration*5/4 + 300*time.Millisecond,
		start: time.Now()}
}

// next prints what is measured next. On a terminal it replaces the previous line.
func (p *progress) next(what string) {
	each := p.guess
	if p.k > 0 {
		each = time.Since(p.start) / time.Duration(p.k)
	}
	left := each * time.Duration(p.total-p.k)
	p.k++
	line := fmt.Sprintf("%d of %d, %s left: %s", p.k, p.total, rough(left), what)
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(p.out, line)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// rough formats a duration roughly.
func rough(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f min", d.Minutes())
}

package main

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
)

// table prints medians, and the median of the ratios of runs that followed each
// other.
func table(o options, programs []program, all []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "load\tprogram\tdatagrams/s\tspread\tlost\tCPU µs\tRSS MB\trate of unproxy to it\tCPU of unproxy to it\t\n")
	for _, r := range rows(o) {
		base := pick(all, r.String(), programs[0].name)
		for _, p := range programs {
			own := pick(all, r.String(), p.name)
			rates := values(own, func(x result) float64 { return x.Rate })
			fmt.Fprintf(w, "%v\t%s\t%.0f\t%.0f-%.0f\t%.2f %%\t%.2f\t%.0f\t%.2f\t%.2f\t\n", r, p.name,
				median(rates), slices.Min(rates), slices.Max(rates),
				100*median(values(own, func(x result) float64 { return x.Lost })),
				median(values(own, func(x result) float64 { return x.CPU })),
				median(values(own, func(x result) float64 { return float64(x.MemoryKB) / 1024 })),
				median(ratios(base, own, func(x result) float64 { return x.Rate })),
				median(ratios(base, own, func(x result) float64 { return x.CPU })))
		}
	}
	w.Flush()
}

func pick(all []result, row, program string) (own []result) {
	for _, r := range all {
		if r.Row == row && r.Program == program {
			own = append(own, r)
		}
	}
	return own
}

func values(all []result, of func(result) float64) (v []float64) {
	for _, r := range all {
		v = append(v, of(r))
	}
	return v
}

func ratios(a, b []result, of func(result) float64) (v []float64) {
	for i := range a {
		v = append(v, of(a[i])/of(b[i]))
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

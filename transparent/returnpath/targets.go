package returnpath

// Targets is what a return path has to cover, before names are resolved and
// before the host is asked how it reaches each backend.
type Targets struct {
	Backends  []Target
	Redirects []Redirect
	Options   Options
}

// Target is a backend as a configuration names it. Its place is not known yet.
type Target struct {
	// Host is a name, which stands for Backend.Addr once it is resolved; "" is
	// a backend whose address is known.
	Host string
	Backend
}

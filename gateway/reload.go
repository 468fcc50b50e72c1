package gateway

import "unproxy/gateway/config"

// Reload reads every list of addresses again, see [config.Lists.Reload], and
// looks the backends' names up again. A peer that is no longer trusted keeps the
// connections that it has, unless its forward says otherwise
// ([forward.Forward.CutUntrusted]).
func (g *Gateway) Reload() (config.Reloaded, error) {
	g.engine.Resolve()
	done, err := g.config.Lists.Reload()
	if err == nil {
		g.engine.Recheck()
	}
	return done, err
}

// Changed reports whether the files of the lists have changed, see
// [config.Lists.Changed].
func (g *Gateway) Changed() bool { return g.config.Lists.Changed() }

// Reloads returns the results of the reloads so far.
func (g *Gateway) Reloads() config.ReloadState { return g.config.Lists.State() }

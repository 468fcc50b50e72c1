package engine

import (
	"net/netip"
	"sync"
)

// clients counts the connections of each client, for the limit per client; see
// [subscriber] for whom an address stands for. It
// cannot grow beyond the number of connections.
type clients struct {
	sync.Mutex
	count map[netip.Addr]int
}

// enter counts one more of client's connections, unless it has limit already.
func (c *clients) enter(client netip.Addr, limit int) bool {
	client = subscriber(client)
	c.Lock()
	defer c.Unlock()
	if c.count == nil {
		c.count = map[netip.Addr]int{}
	}
	if c.count[client] >= limit {
		return false
	}
	c.count[client]++
	return true
}

func (c *clients) leave(client netip.Addr) {
	client = subscriber(client)
	c.Lock()
	defer c.Unlock()
	if c.count[client]--; c.count[client] <= 0 {
		delete(c.count, client)
	}
}

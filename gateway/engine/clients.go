package engine

import (
	"net/netip"
	"sync"
)

// Clients counts the connections of each client, for the limit per client; see
// [subscriber] for whom an address stands for. It cannot grow beyond the number
// of connections. The zero value is ready, and its methods may be called from any
// goroutine.
type Clients struct {
	mu    sync.Mutex
	count map[netip.Addr]int
}

// Enter counts one more of client's connections, unless it has limit already.
func (c *Clients) Enter(client netip.Addr, limit int) bool {
	client = subscriber(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == nil {
		c.count = map[netip.Addr]int{}
	}
	if c.count[client] >= limit {
		return false
	}
	c.count[client]++
	return true
}

// Leave counts one of client's connections out again.
func (c *Clients) Leave(client netip.Addr) {
	client = subscriber(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[client]--; c.count[client] <= 0 {
		delete(c.count, client)
	}
}

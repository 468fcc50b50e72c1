package limit

import (
	"net/netip"
	"sync"
)

// Clients counts the connections of each client, as grouped by [Subscriber]. It holds at most one
// entry per open connection. The zero value is ready to use. It is safe for concurrent use.
type Clients struct {
	mu    sync.Mutex
	count map[netip.Addr]int
}

// Enter counts a new connection of client. It returns false, and counts nothing, if the client
// already has limit connections.
func (c *Clients) Enter(client netip.Addr, limit int) bool {
	client = Subscriber(client)
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

// Leave undoes an Enter that returned true.
func (c *Clients) Leave(client netip.Addr) {
	client = Subscriber(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[client]--; c.count[client] <= 0 {
		delete(c.count, client)
	}
}

// Len returns the number of clients that have a connection.
func (c *Clients) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.count)
}

package datagram

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/forward"

	"golang.org/x/sys/unix"
)

// sendTogether sends datagrams with as few system calls as possible.
func sendTogether(t *testing.T, c *net.UDPConn, datagrams []string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	messages, vectors := make([]Message, len(datagrams)), make([]unix.Iovec, len(datagrams))
	for i, d := range datagrams {
		b := []byte(d)
		vectors[i].Base = &b[0]
		vectors[i].SetLen(len(b))
		messages[i].Iov = &vectors[i]
		messages[i].SetIovlen(1)
	}
	for len(messages) > 0 {
		raw.Write(func(fd uintptr) bool {
			n, errno := linux{}.Send(int(fd), messages)
			if errno != 0 && errno != unix.EAGAIN {
				t.Fatal(errno)
			}
			messages = messages[n:]
			return errno == 0
		})
	}
}

// Bursts of many clients through one of the peer's sockets: alone and in GSO batches,
// empty and not, some of them to a backend that is not there. All of the others
// arrive, each flow's in order and from a source of its own, and so do the replies.
func TestLiveBursts(t *testing.T) {
	backend, gone := listen(t), listen(t)
	there, away := backend.LocalAddr().(*net.UDPAddr).AddrPort(), gone.LocalAddr().(*net.UDPAddr).AddrPort()
	gone.Close()
	f := loopback(backend.LocalAddr())
	f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
	f.AllowDestination = only(there)
	l := start(t, f)
	c := l.dial()
	const flows, rounds = 40, 20
	source := map[int]netip.AddrPort{}
	refused := 0
	for round := range rounds {
		var burst []string
		want, replies, expected := map[int][]string{}, map[string]int{}, 0
		for i := range 2 * flows {
			n, to := i*7%flows, there
			if n%5 == 4 {
				to = away
			}
			for part := range 1 + (i+round)%3*(i%2) {
				text := fmt.Sprintf("%d/%d/%d/%d", n, round, i, part)
				burst = append(burst, v2(client(n), to)+text)
				if to == away {
					refused++
					continue
				}
				want[n] = append(want[n], text)
				replies["re "+text]++
				expected++
			}
			if n%5 == 1 {
				burst = append(burst, v2(client(n), to))
				want[n] = append(want[n], "")
				replies["re "]++
				expected++
			}
		}
		sendTogether(t, c, burst)
		for range expected {
			buffer := make([]byte, 100)
			size, from, err := backend.ReadFromUDPAddrPort(buffer)
			if err != nil {
				t.Fatal(err)
			}
			n := flowOf(source, from, string(buffer[:size]))
			if len(want[n]) == 0 || want[n][0] != string(buffer[:size]) {
				t.Fatalf("flow %d, from %v: %q arrived, want %q", n, from, buffer[:size], want[n])
			}
			want[n] = want[n][1:]
			backend.WriteToUDPAddrPort(fmt.Appendf(nil, "re %s", buffer[:size]), from)
		}
		for len(replies) > 0 {
			text := read(t, c)
			if replies[text]--; replies[text] < 0 {
				t.Fatalf("duplicate reply %q", text)
			}
			if replies[text] == 0 {
				delete(replies, text)
			}
		}
	}
	if len(source) != flows*4/5 {
		t.Errorf("%d sources, want %d", len(source), flows*4/5)
	}
	counted := func() int { return int(l.relay.Counters().Dropped[BackendRefused]) }
	for end := time.Now().Add(patience); counted() < flows/5 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := counted(); n < flows/5 || n > refused { // several of one flow may be reported together
		t.Errorf("%d datagrams were refused, of %d", n, refused)
	}
}

// flowOf returns the flow of a received datagram. An empty one is identified by its source alone.
func flowOf(source map[int]netip.AddrPort, from netip.AddrPort, text string) (n int) {
	if strings.Contains(text, "/") {
		fmt.Sscan(text[:strings.Index(text, "/")], &n)
		source[n] = from
		return n
	}
	for n, s := range source {
		if s == from {
			return n
		}
	}
	return -1
}

package ban

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"unproxy/integration_test/allocations"
	"unproxy/integration_test/await"
)

// clock is a wall clock that the test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestBansEndWithTheirTime(t *testing.T) {
	c := newClock()
	l := New(c.now)
	for _, b := range []Ban{
		{Prefix: prefix("203.0.113.9/32"), Until: c.now().Add(time.Minute)},
		{Prefix: prefix("203.0.113.0/24"), Until: c.now().Add(time.Hour)},
		{Prefix: prefix("2001:db8::/64")},
	} {
		if _, err := l.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		pass             time.Duration
		inBoth, in24, v6 bool
		next             time.Duration
	}{
		{0, true, true, true, time.Minute},
		{time.Minute - 1, true, true, true, 1},
		{1, true, true, true, 59 * time.Minute}, // the /24 holds the address, too
		{59*time.Minute - 1, true, true, true, 1},
		{1, false, false, true, 0},
		{1000 * time.Hour, false, false, true, 0},
	} {
		c.pass(tt.pass)
		next := l.Expire()
		left := time.Duration(0)
		if !next.IsZero() {
			left = next.Sub(c.now())
		}
		got := []bool{l.Contains(addr("203.0.113.9")), l.Contains(addr("203.0.113.8")), l.Contains(addr("2001:db8::1"))}
		if want := []bool{tt.inBoth, tt.in24, tt.v6}; fmt.Sprint(got) != fmt.Sprint(want) || left != tt.next {
			t.Errorf("after %v more: banned %v, next end in %v; want %v, %v", tt.pass, got, left, want, tt.next)
		}
	}
	if l.Len() != 1 || l.Contains(addr("198.51.100.1")) {
		t.Errorf("%d bans are left", l.Len())
	}
}

func TestAddReplaces(t *testing.T) {
	c := newClock()
	l := New(c.now)
	first, _ := l.Add(Ban{Prefix: prefix("203.0.113.9/32"), Reason: "one"})
	l.Admit(addr("203.0.113.9"), 0)
	c.pass(time.Minute)
	second, err := l.Add(Ban{Prefix: prefix("203.0.113.9/32"), Until: c.now().Add(time.Second), Reason: "two"})
	if err != nil || l.Len() != 1 {
		t.Fatal(err, l.Len())
	}
	if !second.Since.Equal(first.Since) || second.Hits != 1 || second.Reason != "two" {
		t.Errorf("%+v after %+v: Since and Hits stay", second, first)
	}
	if all := l.All(); len(all) != 1 || all[0] != second {
		t.Errorf("the list is %+v", all)
	}
	c.pass(time.Second)
	if l.Expire(); l.Len() != 0 {
		t.Error("the replaced ban had no end, the new one has")
	}
}

func TestRemove(t *testing.T) {
	l := New(newClock().now)
	for _, p := range []string{"203.0.113.9/32", "203.0.113.0/24", "203.0.0.0/16"} {
		if _, err := l.Add(Ban{Prefix: prefix(p)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		prefix  string
		removed bool
		covered string
	}{
		{"203.0.113.9/32", true, "[203.0.113.0/24 203.0.0.0/16]"},
		{"203.0.113.9/32", false, "[203.0.113.0/24 203.0.0.0/16]"},
		{"203.0.113.0/24", true, "[203.0.0.0/16]"},
		{"198.51.100.1/32", false, "[]"},
		{"203.0.0.0/16", true, "[]"},
		{"203.0.0.0/16", false, "[]"},
	} {
		removed, covered, err := l.Remove(prefix(tt.prefix))
		if err != nil || removed != tt.removed || fmt.Sprint(covered) != tt.covered {
			t.Errorf("remove %s: %v %v %v; want %v %v", tt.prefix, removed, covered, err, tt.removed, tt.covered)
		}
	}
}

func TestWrongBans(t *testing.T) {
	l := New(newClock().now)
	for _, b := range []Ban{
		{},
		{Prefix: prefix("0.0.0.0/0")},
		{Prefix: prefix("::/0")},
		{Prefix: netip.PrefixFrom(addr("203.0.113.9"), 24)},
		{Prefix: prefix("::ffff:203.0.113.9/128")},
		{Prefix: prefix("203.0.113.9/32"), Reason: strings.Repeat("x", MostReason+1)},
		{Prefix: prefix("203.0.113.9/32"), Reason: "two\nlines"},
		{Prefix: prefix("203.0.113.9/32"), Reason: "\x1b[2J"},
		{Prefix: prefix("203.0.113.9/32"), Reason: "\xff"},
		{Prefix: prefix("203.0.113.9/32"), Reason: "left to right \u202e"},
	} {
		if _, err := l.Add(b); err == nil || l.Len() != 0 {
			t.Errorf("%+v was added", b)
		}
	}
}

func TestFullList(t *testing.T) {
	l := New(newClock().now)
	all := make([]Ban, Most)
	for i := range all {
		all[i] = Ban{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Since: newClock().now()}
	}
	if err := l.Replace(all); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(Ban{Prefix: prefix("203.0.113.9/32")}); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	if _, err := l.Add(Ban{Prefix: all[7].Prefix, Reason: "again"}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	l.Remove(all[7].Prefix)
	if _, err := l.Add(Ban{Prefix: prefix("203.0.113.9/32")}); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
	if err := l.Replace(append(all, Ban{Prefix: prefix("192.0.2.1/32"), Since: newClock().now()})); !errors.Is(err, ErrFull) {
		t.Errorf("replace by too many: %v", err)
	}
	if !l.Contains(addr("203.0.113.9")) {
		t.Error("a Replace that failed changed the list")
	}
}

func TestFrozenList(t *testing.T) {
	l := New(newClock().now)
	l.Add(Ban{Prefix: prefix("203.0.113.9/32")})
	if all := l.Freeze(); len(all) != 1 {
		t.Errorf("handed over: %v", all)
	}
	if _, err := l.Add(Ban{Prefix: prefix("192.0.2.1/32")}); !errors.Is(err, ErrFrozen) {
		t.Errorf("add: %v", err)
	}
	if _, _, err := l.Remove(prefix("203.0.113.9/32")); !errors.Is(err, ErrFrozen) || !l.Contains(addr("203.0.113.9")) {
		t.Errorf("remove: %v", err)
	}
	l.Thaw()
	if _, err := l.Add(Ban{Prefix: prefix("192.0.2.1/32")}); err != nil {
		t.Error(err)
	}
}

// A list answers as one that looks at every ban, while bans come, go and end.
func TestListAgainstOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := newClock()
	l, oracle := New(c.now), map[netip.Prefix]time.Time{}
	at := func() netip.Addr {
		if random.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{203, 0, byte(random.IntN(2)), byte(random.IntN(8))})
		}
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 7: byte(random.IntN(2)), 15: byte(random.IntN(4))})
	}
	for i := range 20_000 {
		a := at()
		p, _ := a.Prefix(a.BitLen() - random.IntN(12))
		switch random.IntN(4) {
		case 0:
			until := c.now().Add(time.Duration(1+random.IntN(20)) * time.Second)
			if random.IntN(5) == 0 {
				until = time.Time{}
			}
			if _, err := l.Add(Ban{Prefix: p, Until: until}); err != nil {
				t.Fatal(err)
			}
			oracle[p] = until
		case 1:
			l.Remove(p)
			delete(oracle, p)
		case 2:
			c.pass(time.Duration(random.IntN(3)) * time.Second)
		}
		l.Expire()
		want := false
		for p, until := range oracle {
			if !until.IsZero() && !c.now().Before(until) {
				delete(oracle, p)
				continue
			}
			want = want || p.Contains(a)
		}
		if got := l.Admit(a, 0); got != want || l.Len() != len(oracle) {
			t.Fatalf("step %d: %v banned: %v, want %v; %d bans, want %d", i, a, got, want, l.Len(), len(oracle))
		}
	}
	if l.Hits() == 0 {
		t.Error("no ban was hit")
	}
}

func TestReadingDoesNotAllocate(t *testing.T) {
	l := New(newClock().now)
	banned, other := addr("203.0.113.9"), addr("2001:db8::1")
	for range 2 { // an empty list, and one with a ban
		n := allocations.PerRun(100, func() { l.Admit(banned, 0); l.Admit(other, 0); l.Contains(banned) })
		if n != 0 {
			t.Errorf("%v allocations with %d bans", n, l.Len())
		}
		l.Add(Ban{Prefix: prefix("203.0.113.9/32")})
	}
}

// Watch ends bans by itself, and stops when told.
func TestWatch(t *testing.T) {
	l := New(time.Now)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.Watch(ctx); close(done) }()
	l.Add(Ban{Prefix: prefix("203.0.113.9/32"), Until: time.Now().Add(time.Millisecond)})
	await.Until(t, "the ban ends", func() bool { return l.Len() == 0 })
	stop()
	<-done
}

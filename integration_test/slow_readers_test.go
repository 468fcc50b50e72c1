package integration_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
	"unproxy/integration_test/netns"
)

// streamTo starts a server that sends every client the same number of bytes, each the low byte of
// its place.
func streamTo(t *testing.T, address string, size int) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i)
	}
	lab.Serve(t, address, func(c net.Conn) {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
}

// wantStream reads what streamTo sends, to the end.
func wantStream(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	conn.SetDeadline(await.Deadline(t))
	got, err := io.ReadAll(conn)
	if err != nil || len(got) != size {
		t.Fatalf("%d of %d bytes, %v", len(got), size, err)
	}
	for i, b := range got {
		if b != byte(i) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

// Slow readers do not use up the descriptors: newcomers are served up to the limit on connections,
// and at the limit the admin endpoint, a reload and an upgrade work, and /readyz tells the truth.
//
//	N × slow reader ──header──▶ gateway :2000, 1024 descriptors ──▶ server of 1 MiB :3000
//	20 × conn       ──header──▶         :2001                  ──▶ echo :3001
func TestSlowReadersAtTheLimit(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const size, newcomers = 1 << 20, 20
		netns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 131072")
		netns.Sysctl(t, "net.ipv4.tcp_rmem", "4096 65536 131072")
		streamTo(t, "127.0.0.1:3000", size)
		lab.Echo(t, "127.0.0.1:3001")
		path, admin, health := linked(t), filepath.Join(t.TempDir(), "admin"), filepath.Join(t.TempDir(), "health")
		replace(t, path, `ulimit -n 1024; exec $UNPROXY "$@"`)
		g := startLine(t, lab.Command{Name: path}, "--trust", "127.0.0.1", "--forward", "127.0.0.1:2000=127.0.0.1:3000",
			"--forward", "127.0.0.1:2001=127.0.0.1:3001", "--admin", "unix:"+admin, "--health", "unix:"+health,
			"--drain-timeout", "1h", "--loops", "2")
		limit := int(lastLog(g.Gateway, "ready")["max_connections"].(float64))
		if limit < 300 {
			t.Fatalf("room for %d connections only", limit)
		}
		var slow, fast []net.Conn
		for range limit - newcomers {
			slow = append(slow, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4)))
		}
		await.Until(t, "all readers are blocked", func() bool { return statusOf(t, "unix:"+admin).Holdings.Blocked == len(slow) })
		if code, body := adminGet(t, "unix:"+health, "/readyz"); code != 200 {
			t.Errorf("/readyz before the limit: %d %s", code, body)
		}
		for range newcomers {
			conn := lab.Send(t, "127.0.0.1:2001", lab.V2(client4, dest4), []byte("hello"))
			wantRead(t, conn, "hello")
			fast = append(fast, conn)
		}
		await.Until(t, "/readyz says that the limit is reached", func() bool {
			code, body := adminGet(t, "unix:"+health, "/readyz")
			return code == 503 && strings.Contains(body, `"connections"`)
		})
		if code, body := adminGet(t, "unix:"+admin, "/connections.json?sort=held&limit=1"); code != 200 ||
			!strings.Contains(body, `"blocked":"client"`) {
			t.Errorf("/connections.json: %d %s", code, body)
		}
		code, body := adminDo(t, adminClient("unix:"+admin), "POST", "/-/examine")
		if code >= 300 {
			t.Errorf("/-/examine: %d %s", code, body)
		}
		g.signal(syscall.SIGHUP)
		g.Gateway.WaitLogs(t, reloadedMessage, 1)
		g.signal(syscall.SIGUSR2)
		await.Until(t, "the upgrade ends", func() bool {
			return lastLog(g.Gateway, tookOver) != nil || lastLog(g.Gateway, upgradeFailed) != nil
		})
		if l := lastLog(g.Gateway, upgradeFailed); l != nil {
			t.Fatalf("at the limit: %s", l.String("error"))
		}
		if l := lastLog(g.Gateway, "connection"); l != nil {
			t.Errorf("a connection ended: %v", l)
		}
		for _, conn := range fast {
			write(t, conn, []byte("again"))
			wantRead(t, conn, "again")
		}
		for _, conn := range slow {
			wantStream(t, conn, size)
		}
	})
}

// Thousands of slow readers take little memory, which is given back after they have gone.
//
//	4000 × slow reader ──header──▶ gateway :2000 ──▶ server of 1 MiB :3000
func TestSlowReadersTakeLittleMemory(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		const readers, size = 4000, 1 << 20
		needDescriptors(t, 2*readers+200)
		netns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 32768")
		netns.Sysctl(t, "net.ipv4.tcp_rmem", "4096 16384 32768")
		streamTo(t, "127.0.0.1:3000", size)
		admin := filepath.Join(t.TempDir(), "admin")
		g := lab.StartGatewayAs(t, lab.Command{Name: lab.PlainBinary(t)}, "--forward", "127.0.0.1:2000=127.0.0.1:3000",
			"--trust", "127.0.0.1", "--admin", "unix:"+admin)
		var slow []net.Conn
		for range readers {
			slow = append(slow, lab.Send(t, "127.0.0.1:2000", lab.V2(client4, dest4)))
		}
		await.Until(t, "all readers are blocked", func() bool { return statusOf(t, "unix:"+admin).Holdings.Blocked == readers })
		const most = 50_000_000
		held := residentMemory(t, g.PID())
		t.Logf("%d slow readers: %d MB", readers, held/1_000_000)
		if held > most {
			t.Errorf("%d slow readers: %d bytes of memory, want at most %d", readers, held, most)
		}
		for i, conn := range slow {
			if i%100 == 0 {
				wantStream(t, conn, size)
			}
			conn.Close()
		}
		await.Until(t, "the connections are gone", func() bool { return openDescriptors(t, g.PID()) < 200 })
		if _, metrics := adminGet(t, "unix:"+admin, "/metrics"); !strings.Contains(metrics, "\nunproxy_buffered_bytes 0\n") {
			t.Error("bytes are counted as held")
		}
		t.Logf("afterwards: %d MB", residentMemory(t, g.PID())/1_000_000)
	})
}

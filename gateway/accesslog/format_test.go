package accesslog

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/integration_test/await"
)

func TestParse(t *testing.T) {
	for _, f := range []Format{Auto, JSON, Console} {
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseFormat(%s) = %v, %v", f, got, err)
		}
	}
	for _, m := range []Mode{All, Errors, Off} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("ParseMode(%s) = %v, %v", m, got, err)
		}
	}
	for _, l := range []Level{Info, Debug, Warn, Error} {
		if got, err := ParseLevel(l.String()); got != l || err != nil {
			t.Errorf("ParseLevel(%s) = %v, %v", l, got, err)
		}
	}
	const want = `"logfmt" is not one of auto, json, console`
	if _, err := ParseFormat("logfmt"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ParseFormat(logfmt): %v, want %s", err, want)
	}
	if _, err := ParseLevel(""); err == nil {
		t.Error("ParseLevel of an empty word has no error")
	}
	if (Level(0)) != Info || (Format(0)) != Auto || (Mode(0)) != All {
		t.Error("the zero values are not the defaults of the flags")
	}
}

func TestConsoleLine(t *testing.T) {
	var out bytes.Buffer
	l := bare(formatted(&out, Config{Format: Console}), Debug)
	l.Connection(finished())
	l.Connection(refused())
	l.Logger().Error().Err(fmt.Errorf("listen :25: %w", os.ErrPermission)).Str("forward", ":25").Msg("cannot start")
	const at = "2026-11-22T12:00:00.123Z"
	want := at + ` INF connection id=c8f3-2a forward=0.0.0.0:8443 peer=10.0.0.5:40112 client=203.0.113.9:4711` +
		` destination=198.51.100.7:443 backend=127.0.0.1:22 transparent=true version=2` +
		` outcome=ok phase=relay by=client bytes_in=1832 bytes_out=90211` +
		` header_ms=0.412 connect_ms=20.300 duration_ms=5007.123 authority=ssh.example.com unique_id=0A000005:9CB0` + "\n" +
		at + ` WRN connection id=c8f3-2b forward=:25 peer=[2001:db8::5]:40112 client=` +
		` destination= backend= transparent=false version=0` +
		` outcome=not_proxy phase=header by=gateway reason="no signature" offset=1 bytes_in=0 bytes_out=0` +
		` header_ms=0.001 connect_ms=0.000 duration_ms=2.000 sample="\"EHLO \\x1b[31m\\r\\n\""` + "\n" +
		at + ` ERR cannot start forward=:25 error="listen :25: permission denied"` + "\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// terminal returns a terminal and a function that reads what was written to it.
func terminal(t *testing.T) (tty *os.File, read func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("cannot open a terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if err := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("cannot open a terminal: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty, func() string {
		if err := master.SetReadDeadline(await.Deadline(t)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		n, err := master.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestFormatOfWriter(t *testing.T) {
	tests := []struct {
		name            string
		noColor         string
		format          Format
		terminal        bool
		console, colour bool
	}{
		{"terminal", "", Auto, true, true, true},
		{"terminal with NO_COLOR (no-color.org)", "1", Auto, true, true, false},
		{"JSON on a terminal", "", JSON, true, false, false},
		{"pipe", "", Auto, false, false, false},
		{"console on a pipe", "", Console, false, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", tt.noColor)
			var file *os.File
			var read func() string
			if tt.terminal {
				file, read = terminal(t)
			} else {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close()
				file, read = w, func() string {
					b := make([]byte, 4096)
					n, _ := r.Read(b)
					return string(b[:n])
				}
			}
			l := open(t, Config{Writer: file, Format: tt.format})
			l.Connection(&record.Connection{})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			got := read()
			if strings.HasPrefix(got, "{") == tt.console || strings.Contains(got, "\x1b[") != tt.colour {
				t.Errorf("wrote %q, want console %v, colour %v", got, tt.console, tt.colour)
			}
		})
	}
}

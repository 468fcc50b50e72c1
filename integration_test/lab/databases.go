package lab

import (
	"path/filepath"
	"testing"
)

// PostgreSQL starts a PostgreSQL server on 127.0.0.1 and ::1. Clients in the documentation
// networks may log in without a password, no others. It logs connections to its output. It
// refuses to run as root and runs as postgres: only root without a user namespace can start it.
func PostgreSQL(t testing.TB, port string) *Process {
	t.Helper()
	bin := postgresDirectory(t)
	dir := filepath.Join(PublicDir(t, 0o755), "data")
	Output(t, "install", "-d", "-o", "postgres", "-m", "700", dir)
	as := []string{"--reuid", "postgres", "--regid", "postgres", "--clear-groups"}
	Must(t, Command{Name: "setpriv", Dir: dir, Args: append(as, filepath.Join(bin, "initdb"), "--no-sync",
		"--no-instructions", "--locale=C", "--auth=reject", "-D", dir)})
	writeIn(t, dir, map[string]string{
		"pg_hba.conf": "host all all 192.0.2.0/24 trust\nhost all all 2001:db8::/32 trust\n"})
	return startServer(t, Command{Name: "setpriv", Dir: dir, Args: append(as, filepath.Join(bin, "postgres"), "-D", dir,
		"-c", "listen_addresses=127.0.0.1,::1", "-c", "port="+port, "-c", "unix_socket_directories=",
		"-c", "log_connections=on", "-c", "fsync=off")}, []string{"127.0.0.1:" + port, "[::1]:" + port})
}

// postgresDirectory returns the directory with PostgreSQL's programs, which Debian keeps out of PATH.
func postgresDirectory(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Skip("postgresql is not installed")
	}
	return filepath.Dir(found[len(found)-1])
}

// MariaDB starts a MariaDB server on 127.0.0.1 and ::1 that every user may log in to.
func MariaDB(t testing.TB, port string) *Process {
	t.Helper()
	return startMariaDB(t, []string{"--no-defaults", "--port=" + port, "--bind-address=127.0.0.1,::1",
		"--skip-name-resolve", "--general-log", "--general-log-file=/dev/stdout"}, "127.0.0.1:"+port, "[::1]:"+port)
}

// MariaDBWith is [MariaDB] with the settings in a file.
func MariaDBWith(t testing.TB, path, address string) *Process {
	t.Helper()
	return startMariaDB(t, []string{"--defaults-file=" + path}, address)
}

func startMariaDB(t testing.TB, settings []string, addresses ...string) *Process {
	t.Helper()
	dir := t.TempDir()
	return startServer(t, Command{Name: "mariadbd", Args: append(settings, "--user=root", "--datadir="+dir,
		"--socket="+filepath.Join(dir, "socket"), "--pid-file="+filepath.Join(dir, "pid"), "--skip-grant-tables",
		"--skip-innodb", "--default-storage-engine=MyISAM")}, addresses)
}

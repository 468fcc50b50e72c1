package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"unproxy/integration_test/lab"
)

// soakBackendWord is the first argument of the test program when it is the backend of the soak, in a process of
// its own: so neither process needs more than one descriptor for each connection.
const soakBackendWord = "soak-backend"

// What the backend prints: when it serves, and before each error.
const (
	soakServing = "the soak's backend serves"
	soakWrong   = "wrong: "
)

// playSoakBackend serves at an address until a SIGTERM, and writes what it has finished to a file.
func playSoakBackend(address, path string) error {
	noProbes := net.ListenConfig{KeepAlive: -1}
	l, err := noProbes.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var finished ledger
	var running, accepting sync.WaitGroup
	serve := serveExchanges(&finished, func(err error) { fmt.Println(soakWrong, err) })
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	fmt.Println(soakServing)
	<-stop
	l.Close()
	accepting.Wait()
	running.Wait()
	b, err := json.Marshal(finished.finished)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// startBackend starts the backend's process.
func (s *soak) startBackend() {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	s.book = filepath.Join(s.TempDir(), "ledger")
	s.backend = lab.Start(s.T, lab.Command{Name: self, Args: []string{soakBackendWord, soakBack, s.book}})
	s.backend.WaitLine(s.T, soakServing)
}

// endBackend ends the backend's process and returns what it has finished.
func (s *soak) endBackend() (finished map[uint64]transfer) {
	s.Helper()
	if err := s.backend.Signal(syscall.SIGTERM); err != nil {
		s.Fatal(err)
	}
	if code := s.backend.Wait(s.T); code != 0 {
		s.Fatalf("the backend ended with code %d", code)
	}
	for _, line := range s.backend.Lines() {
		if strings.HasPrefix(line, soakWrong) {
			s.Error(line)
		}
	}
	if err := json.Unmarshal(readFile(s.T, s.book), &finished); err != nil {
		s.Fatal(err)
	}
	return finished
}

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// relayTCP is the obvious relay in Go: two goroutines for each connection and io.Copy,
// which uses splice(2) between TCP connections. It reads only the necessary part of the
// header, and trusts every peer.
func relayTCP(listen, backend string, transparent bool) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, unix.EMFILE) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		go relayOne(c.(*net.TCPConn), backend, transparent)
	}
}

func relayOne(front *net.TCPConn, backend string, transparent bool) {
	defer front.Close()
	in := bufio.NewReaderSize(front, 512)
	client, err := readHeader(in)
	if err != nil {
		return
	}
	dialer := net.Dialer{}
	if transparent {
		dialer.LocalAddr = client
		dialer.Control = func(_, _ string, c syscall.RawConn) error { return bindForeign(c) }
	}
	c, err := dialer.Dial("tcp", backend)
	if err != nil {
		return
	}
	back := c.(*net.TCPConn)
	defer back.Close()
	early, _ := in.Peek(in.Buffered())
	if _, err := back.Write(early); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		io.Copy(front, back)
		front.CloseWrite()
		close(done)
	}()
	io.Copy(back, front)
	back.CloseWrite()
	<-done
}

// bindForeign lets a socket bind to an address of another host (IP_TRANSPARENT, ip(7)).
func bindForeign(c syscall.RawConn) (err error) {
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}); failed != nil {
		return failed
	}
	return err
}

// readHeader reads a PROXY header of either version with IPv4 addresses and returns the
// client.
func readHeader(in *bufio.Reader) (*net.TCPAddr, error) {
	start, err := in.Peek(16)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(start, []byte("PROXY TCP4 ")) {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		words := strings.Fields(line)
		if len(words) != 6 {
			return nil, fmt.Errorf("header %.40q", line)
		}
		port, err := strconv.Atoi(words[4])
		return &net.TCPAddr{IP: net.ParseIP(words[2]), Port: port}, err
	}
	header := make([]byte, 16+int(binary.BigEndian.Uint16(start[14:])))
	if _, err := io.ReadFull(in, header); err != nil {
		return nil, err
	}
	if header[13] != 0x11 || len(header) < 28 {
		return nil, fmt.Errorf("header %.40q", header)
	}
	return &net.TCPAddr{IP: net.IP(header[16:20]), Port: int(binary.BigEndian.Uint16(header[24:]))}, nil
}

package main

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// relayUDP is the obvious relay in Go: a goroutine and a socket for each flow, and one
// system call for each datagram. It does not read headers.
func relayUDP(listen, backend string) error {
	at, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp", backend)
	if err != nil {
		return err
	}
	front, err := net.ListenUDP("udp", at)
	if err != nil {
		return err
	}
	front.SetReadBuffer(4 << 20)
	var mu sync.Mutex
	flows := map[netip.AddrPort]*net.UDPConn{}
	buffer := make([]byte, 65536)
	for {
		n, peer, err := front.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return err
		}
		mu.Lock()
		back := flows[peer]
		if back == nil {
			if back, err = net.DialUDP("udp", nil, to); err != nil {
				mu.Unlock()
				continue
			}
			flows[peer] = back
			go func() {
				answers(front, back, peer)
				mu.Lock()
				delete(flows, peer)
				mu.Unlock()
				back.Close()
			}()
		}
		mu.Unlock()
		back.Write(buffer[:n])
	}
}

// answers forwards the backend's datagrams until it is silent for a minute.
func answers(front, back *net.UDPConn, peer netip.AddrPort) {
	buffer := make([]byte, 65536)
	for {
		back.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := back.Read(buffer)
		if err != nil {
			return
		}
		front.WriteToUDPAddrPort(buffer[:n], peer)
	}
}

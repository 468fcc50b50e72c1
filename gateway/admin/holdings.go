package admin

import (
	"unproxy/gateway/config"
	"unproxy/gateway/engine"
)

// HoldingsStatus is what the open connections hold, and its limits; 0 is no limit.
type HoldingsStatus struct {
	// Blocked is the number of connections in which one side does not read what the other
	// has sent. HalfClosed is that of those in which one side has ended its stream, Idle
	// that of those without an event for a minute. A connection may be all of them.
	Blocked    int `json:"blocked"`
	HalfClosed int `json:"half_closed"`
	Idle       int `json:"idle"`
	// BufferedBytes is the memory for what slow readers have not taken, and for headers
	// that are not complete. PipedBytes is what waits in the kernel's pipes.
	BufferedBytes int64 `json:"buffered_bytes"`
	BufferLimit   int   `json:"buffer_limit_bytes"`
	PipedBytes    int64 `json:"piped_bytes"`
	// Pipes is the number of open pipes, idle ones included.
	Pipes     int `json:"pipes"`
	PipeLimit int `json:"pipe_limit"`
}

func holdingsStatus(h engine.Holdings, counters *engine.Counters, c *config.Config) HoldingsStatus {
	return HoldingsStatus{
		Blocked: h.Blocked, HalfClosed: h.HalfClosed, Idle: h.Idle,
		BufferedBytes: h.Buffered, BufferLimit: c.MaxBuffer, PipedBytes: h.Piped,
		Pipes: counters.Pipes, PipeLimit: c.MaxPipes,
	}
}

// holdings emits the metrics of what connections hold.
func (e emitter) holdings(h HoldingsStatus) {
	e.gauge(descBlocked, float64(h.Blocked))
	e.gauge(descHalfClosed, float64(h.HalfClosed))
	e.gauge(descIdle, float64(h.Idle))
	e.gauge(descBuffered, float64(h.BufferedBytes))
	e.gauge(descBufferLimit, float64(h.BufferLimit))
	e.gauge(descPiped, float64(h.PipedBytes))
	e.gauge(descPipes, float64(h.Pipes))
	e.gauge(descPipeLimit, float64(h.PipeLimit))
}

var (
	descBlocked     = metric("connections_blocked", "Connections in which one side does not read what the other has sent.")
	descHalfClosed  = metric("connections_half_closed", "Connections in which one side has ended its stream.")
	descIdle        = metric("connections_idle", "Connections without an event for a minute.")
	descBuffered    = metric("buffered_bytes", "Memory for what slow readers have not taken, and for headers that are not complete.")
	descBufferLimit = metric("buffered_limit_bytes", "Limit on buffered_bytes, see --max-buffer; 0 is no limit.")
	descPiped       = metric("piped_bytes", "Bytes that wait in pipes.")
	descPipes       = metric("pipes_open", "Open pipes, idle ones included.")
	descPipeLimit   = metric("pipes_limit", "Pipes beyond which bulk streams are copied; 0 is no limit.")
)

package report

// Section is a kind of load, with its own table.
type Section struct {
	Name, Title string
	// About describes what is measured.
	About   string
	Columns []Column
	// Rate and CPU are the metrics in charts. A section without them is in no chart.
	Rate, CPU Metric
}

// Column is a metric in a section's table.
type Column struct {
	Metric   Metric
	Title    string
	Decimals int
	// Ratio adds a column with the ratio of unproxy to the program.
	Ratio bool
}

// Sections returns all sections, in the order in which they are measured.
func Sections() []Section {
	latencies := []Column{{P50, "p50 µs", 0, false}, {P99, "p99 µs", 0, true}, {P999, "p999 µs", 0, false}}
	each := []Column{{CPU, "CPU µs", 2, true}, {RSS, "RSS MB", 1, false}}
	operations := join([]Column{{OperationsPerSecond, "op/s", 0, true}}, latencies, each)
	connections := join([]Column{{ConnectionsPerSecond, "conn/s", 0, true}}, latencies, each)
	beside := join([]Column{{OperationsPerSecond, "op/s", 0, true}}, latencies)
	bulk := []Column{{GigabitsPerSecond, "Gbit/s", 2, true}}
	whole := []Column{{CPUPercent, "CPU %", 0, false}, {RSS, "RSS MB", 1, false}}
	return []Section{
		{
			Name: "pingpong", Title: "Ping-pong", Columns: operations, Rate: OperationsPerSecond, CPU: CPU,
			About: "A request and an answer of the same size, over and over, on connections that stay open.",
		}, {
			Name: "connections", Title: "Connections", Columns: connections, Rate: ConnectionsPerSecond, CPU: CPU,
			About: "Connect, header, a request and an answer of 64 B, close; 64 at a time.",
		}, {
			Name: "bulk", Title: "Bulk", Columns: join(bulk,
				[]Column{{CPUPerGB, "CPU ms/GB", 0, true}, {RSS, "RSS MB", 1, false}}),
			Rate: GigabitsPerSecond, CPU: CPUPerGB,
			About: "As many bytes as go through; both ways: the sum.",
		}, {
			Name: "idle", Title: "Idle connections",
			Columns: []Column{
				{Held, "held", 0, false}, {RSSEach, "RSS B each", 0, true},
				{AnonymousEach, "anonymous B each", 0, true}, {DescriptorsEach, "descriptors each", 2, true},
				{RSS, "RSS MB", 1, false},
			},
			About: "What the gateway's memory and descriptors grow by for each connection that had one answer and is silent. " +
				"RSS is VmRSS; anonymous leaves out pages of the program's file. The kernel's memory for sockets is not counted.",
		}, {
			Name: "slow", Title: "Slow readers",
			Columns: join([]Column{{ConnectionsPerSecond, "conn/s", 0, true}, {P99, "p99 µs", 0, true}},
				[]Column{{CPUPercent, "CPU %", 0, false}, {RSS, "RSS MB", 1, true}}),
			About: "Connections that ask for more than they ever read, and new connections beside them, 8 at a time; TCP buffers of 32 KiB. " +
				"A program that runs as root, such as HAProxy, may raise its limit on descriptors itself.",
		}, {
			Name: "refuse", Title: "Refusals", Rate: RefusalsPerSecond, CPU: CPU,
			Columns: join([]Column{{RefusalsPerSecond, "refused/s", 0, true}}, latencies, each),
			About: "Connections that are refused, 64 at a time: of peers that are not trusted, which send nothing, and of clients " +
				"that the header names. Each opens the next when it has ended.",
		}, {
			Name: "fairness", Title: "Fairness", Columns: join(beside, bulk, whole),
			About: "Ping-pong of 64 B on 16 connections while streams take what they can.",
		}, {
			Name: "mixed", Title: "Mixed", Columns: join(beside, []Column{{ConnectionsPerSecond, "conn/s", 0, true}}, bulk,
				whole),
			About: "Ping-pong of 4 KiB on 32 connections, new connections 16 at a time, and two streams down, all at once.",
		}, {
			Name: "growth", Title: "Growth", Columns: operations,
			About: "Ping-pong of 64 B with more and more connections open: with 64 of them active, and with all.",
		}, {
			Name: "log", Title: "Access log", Columns: connections,
			About: "Connections with a version 2 header, with a log line for each into a file, and with metrics. " +
				"The ratios say what it costs: of unproxy without to unproxy with.",
		}, {
			Name: "spin", Title: "Busy polling", Columns: join([]Column{{OperationsPerSecond, "op/s", 0, true}}, latencies,
				[]Column{{CPU, "CPU µs", 2, false}}, whole),
			About: "Ping-pong of 64 B on one connection by programs that look for events for a while before they sleep.",
		}, {
			Name: "loops", Title: "Two loops", Columns: join([]Column{{OperationsPerSecond, "op/s", 0, true},
				{ConnectionsPerSecond, "conn/s", 0, true}, {P99, "p99 µs", 0, true}}, each),
			About: "Gateway, load and backend share two cores. unproxy has two loops and HAProxy two threads, unless the name says one.",
		}, {
			Name: "udp", Title: "UDP", Rate: DatagramsPerSecond, CPU: CPU,
			Columns: []Column{{DatagramsPerSecond, "datagrams/s", 0, true}, {Lost, "lost %", 2, false}, {CPU, "CPU µs", 2, true},
				{RSS, "RSS MB", 1, false}},
			About: "Datagrams there and back. Only unproxy gets PROXY headers, and a --peer with --peer-headers.",
		},
	}
}

func join(parts ...[]Column) (all []Column) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

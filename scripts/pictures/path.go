package main

// path is the picture of the README: the way of one connection in transparent
// mode.
func path() *picture {
	p := &picture{name: "path", title: "A connection through unproxy", height: 190,
		description: "A client connects to a load balancer, which connects to unproxy and sends a PROXY header " +
			"before the data. " +
			"unproxy validates and strips the header and sends the data to the backend from the client's address. " +
			"Replies take the same way back."}
	p.box("box", area{16, 50, 110, 60}, "client", "203.0.113.9")
	p.box("box", area{196, 50, 132, 60}, "load balancer", "10.0.0.2")
	p.box("own", area{534, 50, 100, 60}, "unproxy", "10.0.0.5")
	p.box("box", area{774, 50, 90, 60}, "backend", "sshd")

	p.arrow("other", pathH(128, 80, 194))
	p.arrow("wire", pathH(328, 66, 532))
	p.arrow("back", pathH(534, 94, 330))
	p.arrow("there", pathH(634, 66, 772))
	p.arrow("back", pathH(774, 94, 636))

	p.label("data", p.label("header", 342, 36, "PROXY 203.0.113.9")+4, 36, "data")
	p.label("data", 681, 36, "data")
	p.text("note", 431, 84, "middle", "from 10.0.0.2")
	p.text("note", 703, 84, "middle", "from 203.0.113.9")

	p.text("note", 262, 130, "middle", "the peer")
	p.text("note", 584, 130, "middle", "the gateway")
	p.text("note", 584, 148, "middle", "trusts 10.0.0.2, validates and strips the header")
	p.text("note", 440, 180, "middle", "Transparent mode. In plain mode the backend sees the gateway's own address.")
	return p
}

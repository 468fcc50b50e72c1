package main

// option is the picture of docs/toa.md: the handshake of one connection whose client is
// in a TCP option.
func option() *picture {
	p := &picture{name: "toa", title: "The client's address in a TCP option", height: 330,
		description: "The gateway connects from its own address. Its SYN carries an offer, the backend's host " +
			"answers with a promise, and the packets after it carry the client's address. A program at the " +
			"listener drops a handshake without it. accept and getpeername return the client."}
	p.host(area{190, 20, 200, 240}, "the gateway's host")
	p.host(area{640, 20, 230, 240}, "the backend's host")
	p.box("box", area{14, 60, 130, 60}, "load balancer", "10.0.0.2")
	p.arrow("wire", pathH(144, 90, 218))
	p.box("own", area{220, 60, 140, 60}, "unproxy", "10.0.0.5")
	p.box("box", area{690, 60, 150, 60}, "sshd", "10.0.0.9:22")
	p.box("own", area{220, 180, 140, 60}, "programs", "setsockopt")
	p.box("own", area{670, 180, 180, 60}, "programs", "gate, getpeername")
	p.arrow("there", "M290 120 V178")
	p.arrow("there", "M760 180 V122")
	p.text("note", 282, 154, "end", "the client")
	p.text("note", 768, 148, "start", "203.0.113.9")
	p.text("note", 768, 166, "start", "instead of .5")
	p.arrow("there", pathH(360, 195, 668))
	p.arrow("back", pathH(670, 213, 362))
	p.arrow("there", pathH(360, 231, 668))
	p.text("note", 515, 190, "middle", "SYN: offer")
	p.text("note", 515, 208, "middle", "SYN-ACK: promise")
	p.text("mono", 515, 250, "middle", "ACK, data: 203.0.113.9:4711")
	p.text("note", 440, 290, "middle", "From 10.0.0.5 to port 22, and back the same way: no routes.")
	p.text("note", 440, 312, "middle", "No promise: the gateway refuses. No option from a listed gateway: the backend never accepts.")
	return p
}

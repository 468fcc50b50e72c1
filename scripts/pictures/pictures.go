package main

// pictures returns every drawing.
func pictures() []*picture {
	return []*picture{
		path(), packages(), loopback(), ownAddress(), container(), shared(), twoGateways(), tunnels(), redirect(), option(),
	}
}

// balancer draws the client and the load balancer at the left, and the
// connection to a gateway whose left edge is at x.
func balancer(p *picture, y, x int) {
	p.box("box", area{20, y, 110, 60}, "client", "203.0.113.9")
	p.box("box", area{176, y, 132, 60}, "load balancer", "the peer")
	middle := y + 30
	p.arrow("other", pathH(132, middle, 174))
	p.arrow("wire", pathH(308, middle, x-2))
	p.text("note", 340, middle-8, "middle", "header")
}

func loopback() *picture {
	p := &picture{name: "loopback", title: "Backend on loopback", height: 260,
		description: "The backend answers the client's address; a rule for packets from 127.0.0.1 port 22 hands " +
			"them to the gateway instead of the default route."}
	p.host(area{370, 20, 490, 180}, "one host: lo 127.0.0.1, ::1")
	balancer(p, 60, 400)
	p.box("own", area{400, 60, 110, 60}, "unproxy", "203.0.113.9")
	p.box("box", area{720, 60, 110, 60}, "backend", "127.0.0.1:22")
	p.arrow("there", "M510 80 H718")
	p.arrow("back", "M720 104 H512")
	p.text("mono", 615, 140, "middle", "ip rule from 127.0.0.1 iif lo")
	p.text("mono", 615, 156, "middle", "ipproto tcp sport 22 lookup 7700")
	p.arrow("lost", "M775 120 V180 H75 V124")
	p.legend("wire", "there", "back", "lost")
	return p
}

func ownAddress() *picture {
	p := &picture{name: "own-address", title: "Backend on another address of the host", height: 280,
		description: "Others reach the backend by the same address. Conntrack remembers which connections came " +
			"from the gateway, and only their replies are marked and routed to it."}
	p.host(area{370, 20, 490, 190}, "one host: eth0 10.0.0.1")
	balancer(p, 50, 400)
	p.box("own", area{400, 50, 110, 60}, "unproxy", "203.0.113.9")
	p.box("box", area{720, 90, 110, 60}, "backend", "10.0.0.1:25")
	p.arrow("there", "M510 70 H760 V88")
	p.arrow("back", "M720 110 H580 V96 H512")
	p.text("mono", 497, 136, "middle", "ct mark 7702")
	p.text("mono", 497, 152, "middle", "ip rule iif lo fwmark 7702")
	p.box("box", area{176, 140, 132, 60}, "others", "10.0.0.7")
	p.arrow("other", "M310 185 H775 V152")
	p.legend("wire", "there", "back", "other")
	return p
}

func container() *picture {
	p := &picture{name: "container", title: "Backend in a container or on a neighbouring host", height: 270,
		description: "The backend's default route leads to the gateway's host. A rule for packets that come in by " +
			"veth0 from the backend hands them to the gateway."}
	p.host(area{370, 20, 230, 170}, "the gateway's host")
	p.host(area{680, 20, 180, 170}, "container, or other host")
	balancer(p, 60, 400)
	p.box("own", area{400, 60, 110, 60}, "unproxy", "203.0.113.9")
	p.box("box", area{700, 60, 140, 60}, "backend", "10.9.0.2:25")
	p.text("mono", 594, 138, "end", "veth0 10.9.0.1")
	p.arrow("there", "M510 80 H698")
	p.arrow("back", "M700 104 H512")
	p.text("mono", 485, 162, "middle", "ip rule iif veth0")
	p.text("mono", 485, 178, "middle", "from 10.9.0.2 sport 25")
	p.text("note", 770, 152, "middle", "default via 10.9.0.1")
	p.arrow("lost", "M602 104 V205 H75 V124")
	p.legend("wire", "there", "back", "lost")
	return p
}

func shared() *picture {
	p := &picture{name: "shared", title: "Backend behind a host that forwards, as Docker's do", height: 280,
		description: "Others reach the container through the same host. The packet filter asks for each reply " +
			"whether a transparent socket of this host waits for it, and marks only those."}
	p.host(area{370, 20, 250, 190}, "the gateway's host, which forwards")
	p.host(area{690, 20, 170, 190}, "container")
	balancer(p, 50, 400)
	p.box("own", area{400, 50, 110, 60}, "unproxy", "203.0.113.9")
	p.box("box", area{710, 70, 130, 60}, "backend", "172.17.0.2:80")
	p.text("mono", 612, 86, "end", "docker0")
	p.arrow("there", "M510 64 H650 V90 H708")
	p.arrow("back", "M710 108 H560 V98 H512")
	p.text("mono", 495, 138, "middle", "socket transparent 1")
	p.text("mono", 495, 154, "middle", "ip rule iif docker0 fwmark 7700")
	p.box("box", area{176, 140, 132, 60}, "others", "198.51.100.4")
	p.arrow("other", "M310 185 H775 V132")
	p.legend("wire", "there", "back", "other")
	return p
}

func twoGateways() *picture {
	p := &picture{name: "two-gateways", title: "Several gateways in front of one remote backend", height: 340,
		description: "The backend's host marks each connection by the hardware address of the gateway that its " +
			"first packet came from, and routes the replies of each by its mark."}
	p.host(area{660, 40, 200, 250}, "the backend's host")
	p.box("box", area{14, 120, 120, 60}, "clients", "203.0.113.0/24")
	p.box("box", area{176, 120, 132, 60}, "load balancer", "the peer")
	p.arrow("other", pathH(136, 150, 174))
	p.box("own", area{400, 50, 130, 60}, "unproxy", "10.9.0.5")
	p.box("own", area{400, 190, 130, 60}, "unproxy", "10.9.0.6")
	p.box("box", area{690, 120, 140, 60}, "backend", "10.9.0.2:25")
	p.arrow("wire", "M308 140 H354 V80 H398")
	p.arrow("wire", "M308 160 H354 V220 H398")
	p.arrow("there", "M530 70 H740 V118")
	p.arrow("back", "M710 118 V92 H532")
	p.arrow("there", "M530 232 H740 V182")
	p.arrow("back", "M710 182 V208 H532")
	p.text("mono", 595, 62, "middle", "52:54:…:05")
	p.text("mono", 595, 250, "middle", "52:54:…:06")
	p.text("mono", 592, 146, "middle", "ether saddr …:05")
	p.text("mono", 592, 164, "middle", "→ ct mark 7710")
	p.text("mono", 760, 256, "middle", "fwmark 7710 → via .5")
	p.text("mono", 760, 274, "middle", "fwmark 7711 → via .6")
	p.legend("wire", "there", "back")
	return p
}

func tunnels() *picture {
	p := &picture{name: "tunnels", title: "Gateways that reach the backend by tunnels", height: 300,
		description: "Where a router lies between them, each gateway has a tunnel to the backend's host, which " +
			"marks connections by the tunnel that they came by."}
	p.host(area{620, 20, 240, 220}, "the backend's host, anywhere")
	p.box("own", area{60, 50, 130, 60}, "unproxy", "site A")
	p.box("own", area{60, 160, 130, 60}, "unproxy", "site B")
	p.box("box", area{690, 100, 140, 60}, "backend", "10.7.0.2:25")
	p.arrow("there", "M190 70 H740 V98")
	p.arrow("back", "M710 98 V90 H192")
	p.arrow("there", "M190 202 H740 V162")
	p.arrow("back", "M710 162 V180 H192")
	p.text("mono", 410, 62, "middle", "tunnel wg5")
	p.text("mono", 410, 220, "middle", "tunnel wg6")
	p.text("note", 410, 138, "middle", "a network whose routers have no routes to the clients")
	p.text("mono", 740, 226, "middle", "iifname wg6 → ct mark 7711")
	p.legend("there", "back")
	return p
}

func redirect() *picture {
	p := &picture{name: "redirect", title: "One listener for whole prefixes and ranges of ports", height: 250,
		description: "The packet filter hands connections to any address and port of a range to one listener; the " +
			"header's destination says which backend each is for."}
	p.host(area{470, 20, 190, 180}, "the gateway's host")
	p.box("box", area{14, 70, 124, 60}, "clients", "198.51.100.0/24")
	p.box("box", area{184, 70, 132, 60}, "load balancer", "the peer")
	p.arrow("other", pathH(140, 100, 182))
	p.box("own", area{500, 70, 130, 60}, "unproxy", ":7000, tproxy")
	p.arrow("wire", pathH(316, 100, 498))
	p.text("mono", 392, 90, "middle", "203.0.113.7:1234")
	p.text("mono", 565, 152, "middle", "daddr 203.0.113.0/24")
	p.text("mono", 565, 168, "middle", "dport 1000-2000")
	p.text("mono", 565, 184, "middle", "tproxy to :7000")
	for i, name := range []string{"10.2.0.7:1000", "10.2.0.7:1234", "10.2.0.9:2000"} {
		y := 14 + 62*i
		p.box("box", area{720, y, 140, 50}, "backend", name)
		p.arrow("there", pathTo(630, 100, 690, y+25, 718))
	}
	p.legend("wire", "there")
	return p
}

package config

import (
	"unproxy/gateway/config/value"
	"unproxy/gateway/forward"
	"unproxy/transparent"
	"unproxy/transparent/toa"
)

// setTransparent parses on, off or toa. Other words for on and off are those of
// switches.
func setTransparent(d *draft, texts []string) error {
	text := last(texts)
	d.Transparent, d.TOA.On = true, text == "toa"
	if d.TOA.On {
		return nil
	}
	on, err := value.Switch(text)
	if err != nil {
		_, err = value.Word(text, "on", "off", "toa")
	}
	d.Transparent = on
	return err
}

// toa checks a forward that sends clients' addresses in a TCP option.
func (v *validator) toa(f *forward.Forward) {
	carry := f.Source.FamilyMismatch == transparent.Carry
	if !f.Transparent || !f.TOA.On {
		if f.Transparent && carry {
			v.problem("family mismatch carry needs an option that carries the address: a connection has one family",
				"--transparent toa, or --family-mismatch map")
		}
		return
	}
	if f.Datagrams {
		v.problem("a udp:// forward cannot use a TCP option", "add ?transparent=off or ?transparent=on to it")
	}
	if f.AnyBackend(func(b forward.Backend) bool { return b.Endpoint.IsUnix() }) {
		v.problem("a backend on a unix socket has no TCP options",
			"--transparent off, or write BACKEND as HOST:PORT")
	}
	if f.TOA.Format == toa.Legacy {
		v.warn("the legacy format has no promise: a backend whose host does not read the option sees the gateway's address",
			"--toa-format negotiated, with unproxy toa attach on the backend's host")
		return
	}
	if len(f.SourceAddresses) == 0 && relaysWithoutClient(f) {
		v.warn("connections that name no client, such as health checks, come from the same address as those of clients:"+
			" a backend's host that requires the option of this gateway drops them",
			"--toa-source with another address of this host, listed there in --from; or --local close")
	}
	if carry {
		v.warn("an IPv4 socket cannot show an IPv6 client: its host drops the connection",
			"only for servers that listen on an IPv6 socket for both families")
	}
}

// relaysWithoutClient reports whether f relays connections from the gateway's own address.
func relaysWithoutClient(f *forward.Forward) bool {
	return !f.CloseLocal && !f.Header.RefuseV2 || !f.RejectUnknown || f.Source.FamilyMismatch == transparent.Plain
}

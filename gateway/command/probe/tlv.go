package probe

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// readTLVs parses TYPE=VALUE texts. It collects the types that belong in an SSL TLV in
// one such TLV after the others. That TLV says that the client used TLS and, if it has
// data of a certificate, that the certificate was verified.
func readTLVs(texts []string) ([]proxyproto.TLV, error) {
	var tlvs, within []proxyproto.TLV
	var problems []error
	ssl := proxyproto.SSL{Client: proxyproto.ClientTLS}
	for _, text := range texts {
		tlv, isWithin, err := parseTLV(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if !isWithin {
			tlvs = append(tlvs, tlv)
			continue
		}
		within = append(within, tlv)
		if tlv.Type == proxyproto.TypeSSLCommonName || tlv.Type == proxyproto.TypeSSLClientCert {
			ssl.Client |= proxyproto.ClientCertConnection | proxyproto.ClientCertSession
		}
	}
	if len(within) > 0 {
		tlv, err := proxyproto.SSLTLV(ssl, within...)
		if err != nil {
			problems = append(problems, usage.Errorf("--tlv: %v", err))
		}
		tlvs = append(tlvs, tlv)
	}
	return tlvs, errors.Join(problems...)
}

// parseTLV reads TYPE=VALUE. withinSSL reports whether it belongs in an SSL TLV.
func parseTLV(text string) (tlv proxyproto.TLV, withinSSL bool, err error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return tlv, false, usage.Errorf("--tlv %q is not TYPE=VALUE", text).
			WithHint("such as --tlv authority=example.com or --tlv 0x05=hex:0102")
	}
	tlv.Type, withinSSL, ok = proxyproto.ParseType(name)
	if !ok {
		number, err := strconv.ParseUint(name, 0, 8)
		if err != nil {
			return tlv, false, usage.Errorf("--tlv: %q is not a TLV type", name).
				WithHint("a number from 0x00 to 0xff, or one of " + strings.ToLower(strings.Join(proxyproto.TypeNames(), " ")))
		}
		tlv.Type = proxyproto.Type(number)
	}
	tlv.Value, err = tlvValue(name, value)
	return tlv, withinSSL, err
}

// tlvValue parses a value: hex, the ID in the TLV of a cloud provider, or text.
func tlvValue(name, text string) ([]byte, error) {
	for _, prefix := range []string{"0x", "hex:"} {
		digits, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		value, err := hex.DecodeString(digits)
		if err != nil {
			return nil, usage.Errorf("--tlv %s: %q is not hex", name, text).
				WithHint("two digits for each byte, such as 0x00ff")
		}
		return value, nil
	}
	switch strings.ToLower(name) {
	case "aws":
		return append([]byte{1}, text...), nil
	case "azure":
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, usage.Errorf("--tlv azure: %q is not a 32-bit number", text)
		}
		return binary.LittleEndian.AppendUint32([]byte{1}, uint32(id)), nil
	case "gcp":
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, usage.Errorf("--tlv gcp: %q is not a 64-bit number", text)
		}
		return binary.BigEndian.AppendUint64(nil, id), nil
	}
	return []byte(text), nil
}

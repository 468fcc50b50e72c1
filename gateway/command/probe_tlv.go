package command

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// tlvNames are the types that stand in a header itself.
var tlvNames = map[string]proxyproto.Type{
	"alpn":      proxyproto.TypeALPN,
	"authority": proxyproto.TypeAuthority,
	"crc32c":    proxyproto.TypeCRC32C,
	"noop":      proxyproto.TypeNOOP,
	"unique_id": proxyproto.TypeUniqueID,
	"netns":     proxyproto.TypeNetNS,
	"ssl":       proxyproto.TypeSSL,
	"aws":       proxyproto.TypeAWS,
	"azure":     proxyproto.TypeAzure,
	"gcp":       proxyproto.TypeGCP,
}

// sslNames are the types that stand within an SSL TLV.
var sslNames = map[string]proxyproto.Type{
	"ssl_version":     proxyproto.TypeSSLVersion,
	"ssl_cn":          proxyproto.TypeSSLCommonName,
	"ssl_cipher":      proxyproto.TypeSSLCipher,
	"ssl_sig_alg":     proxyproto.TypeSSLSigAlg,
	"ssl_key_alg":     proxyproto.TypeSSLKeyAlg,
	"ssl_group":       proxyproto.TypeSSLGroup,
	"ssl_sig_scheme":  proxyproto.TypeSSLSigScheme,
	"ssl_client_cert": proxyproto.TypeSSLClientCert,
}

// parseTLVs reads TYPE=VALUE texts. Those within SSL are collected in one SSL
// TLV behind the others, of a client whose certificate, if there is anything
// of it, was verified.
func parseTLVs(texts []string) ([]proxyproto.TLV, error) {
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
			problems = append(problems, usage.Errorf("%s", "probe: --tlv: "+err.Error()))
		}
		tlvs = append(tlvs, tlv)
	}
	return tlvs, errors.Join(problems...)
}

func parseTLV(text string) (tlv proxyproto.TLV, within bool, err error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return tlv, false, usage.Errorf("probe: --tlv %q is not TYPE=VALUE", text).WithHint("such as --tlv authority=example.com or --tlv 0x05=hex:0102")
	}
	if tlv.Type, within = sslNames[name]; !within {
		if tlv.Type, err = tlvType(name); err != nil {
			return tlv, false, err
		}
	}
	tlv.Value, err = tlvValue(name, value)
	return tlv, within, err
}

func tlvType(name string) (proxyproto.Type, error) {
	if t, ok := tlvNames[name]; ok {
		return t, nil
	}
	n, err := strconv.ParseUint(name, 0, 8)
	if err != nil {
		known := slices.Sorted(maps.Keys(tlvNames))
		return 0, usage.Errorf("probe: --tlv: %q is no type of a TLV", name).WithHint("a number from 0x00 to 0xff, ssl_version, ssl_cn, …, or one of " + strings.Join(known, " "))
	}
	return proxyproto.Type(n), nil
}

// tlvValue reads hex, the id of a cloud's TLV if name is one, or text.
func tlvValue(name, text string) ([]byte, error) {
	for _, prefix := range []string{"0x", "hex:"} {
		digits, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		value, err := hex.DecodeString(digits)
		if err != nil {
			return nil, usage.Errorf("probe: --tlv %s: %q is not hex", name, text).WithHint("two digits for each byte, such as 0x00ff")
		}
		return value, nil
	}
	switch name {
	case "aws":
		return append([]byte{1}, text...), nil
	case "azure":
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, usage.Errorf("probe: --tlv azure: %q is not a number of 32 bits", text)
		}
		return binary.LittleEndian.AppendUint32([]byte{1}, uint32(id)), nil
	case "gcp":
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, usage.Errorf("probe: --tlv gcp: %q is not a number of 64 bits", text)
		}
		return binary.BigEndian.AppendUint64(nil, id), nil
	}
	return []byte(text), nil
}

package proxyproto

import "bytes"

// Locate returns the index of the byte that is at fault in b, the input that
// [Decode] refused with e: the first byte of the field, of the octet or of the
// TLV that is wrong. Where something is missing it is the byte before the gap.
// It returns -1 for an empty input.
//
// Offset tells when a header could be refused, Locate tells where to look. It
// parses b again, so it is for messages and not for the data path.
func (e *Error) Locate(b []byte) int {
	end := e.Offset
	switch e.Reason {
	case ReasonBareCR:
		return end - 2 // refused at the byte after it
	case ReasonV2ShortBlock, ReasonTooLong:
		return lengthAt
	case ReasonV1Protocol:
		return len(v1Signature)
	case ReasonV1Fields, ReasonIPv4Syntax, ReasonIPv4Octet, ReasonIPv4InTCP6, ReasonIPv6Charset, ReasonIPv6DoubleColon,
		ReasonIPv6Groups, ReasonIPv6TooManyGroups, ReasonIPv6Group, ReasonPort:
		return locateField(b[:end-len("\r\n")], e.Reason)
	case ReasonStrayBytes, ReasonTLVOverrun, ReasonUniqueID, ReasonSSLShort,
		ReasonChecksumLength, ReasonChecksumTwice, ReasonChecksumWrong:
		return locateTLV(b[:end], e.Reason)
	}
	return end - 1
}

// locateField returns where the fields of a line without its CRLF go wrong.
func locateField(line []byte, reason Reason) int {
	protocol, _, _ := bytes.Cut(line[len(v1Signature):], space)
	at := len(v1Signature) + len(protocol) + 1
	for i := 0; at <= len(line); i++ {
		field, _, more := bytes.Cut(line[at:], space)
		switch {
		case reason == ReasonV1Fields && len(field) == 0:
			return at
		case reason == ReasonV1Fields && i == 3 && more:
			return at + len(field)
		case i < 2:
			_, r := readAddress(field, string(protocol) == "TCP6")
			if i == 1 && r != reason { // refused as one of the other family, see [Options.MixedFamilies]
				_, r = readAddress(field, string(protocol) != "TCP6")
			}
			if r == reason {
				return at + locateInAddress(field, reason)
			}
		default:
			if _, r := readPort(field); r == reason {
				return at
			}
		}
		at += len(field) + 1
	}
	return len(line) // a field is missing there
}

// locateInAddress returns where an address goes wrong, 0 for all of it.
func locateInAddress(address []byte, reason Reason) int {
	switch reason {
	case ReasonIPv6Charset:
		for i := range address {
			if !isIPv6Text(address[i : i+1]) {
				return i
			}
		}
	case ReasonIPv4Octet:
		at := bytes.LastIndexByte(address, ':') + 1
		for octet := range bytes.SplitSeq(address[at:], []byte(".")) {
			if len(octet) > 1 && octet[0] == '0' || len(octet) == 3 && string(octet) > "255" {
				return at
			}
			at += len(octet) + 1
		}
	}
	return 0
}

// locateTLV returns where the TLV begins for which a whole header was refused,
// or the value of the checksum that is wrong.
func locateTLV(header []byte, reason Reason) int {
	if Command(header[commandAt]&0x0f) == CommandLocal || addressLength(header[protocolAt]) == 0 {
		at, _ := checkOpaque(header)
		return at
	}
	at := fixedLength + addressLength(header[protocolAt])
	checksums := 0
	for at < len(header) {
		tlv, rest, cut := cutTLV(header[at:])
		if cut != 0 {
			return at
		}
		switch tlv.Type {
		case TypeCRC32C:
			checksums++
			switch {
			case reason == ReasonChecksumWrong:
				return at + tlvFixedLength
			case reason == ReasonChecksumLength && len(tlv.Value) != 4, reason == ReasonChecksumTwice && checksums == 2:
				return at
			}
		case TypeUniqueID:
			if reason == ReasonUniqueID && len(tlv.Value) > MaxUniqueID {
				return at
			}
		case TypeSSL:
			if checkSSL(tlv.Value) == reason {
				return at
			}
		}
		at = len(header) - len(rest)
	}
	return len(header) - 1
}

package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"slices"
	"strings"
)

// Type is the type of a TLV (specification, section 2.2).
type Type byte

// The types of TLVs in a header, and those within an SSL TLV (specification,
// sections 2.2 and 2.2.6).
const (
	TypeALPN      Type = 0x01
	TypeAuthority Type = 0x02
	TypeCRC32C    Type = 0x03
	TypeNOOP      Type = 0x04
	TypeUniqueID  Type = 0x05
	TypeSSL       Type = 0x20
	TypeNetNS     Type = 0x30

	TypeSSLVersion    Type = 0x21
	TypeSSLCommonName Type = 0x22
	TypeSSLCipher     Type = 0x23
	TypeSSLSigAlg     Type = 0x24
	TypeSSLKeyAlg     Type = 0x25
	TypeSSLGroup      Type = 0x26
	TypeSSLSigScheme  Type = 0x27
	TypeSSLClientCert Type = 0x28

	// Types that vendors chose from the range for custom use. They are not
	// registered: other senders may use them for other values.
	TypeGCP     Type = 0xe0
	TypeAlibaba Type = 0xe1
	TypeAWS     Type = 0xea
	TypeAzure   Type = 0xee
)

// MaxUniqueID is the maximum length of a UNIQUE_ID in bytes (specification,
// section 2.2.5).
const MaxUniqueID = 128

const (
	tlvFixedLength = 3 // type and length
	checksumLength = 4 // of a CRC32C value
)

// The names of the types in a header itself, and of those within an SSL TLV.
var (
	typeNames = [...]string{
		TypeALPN: "ALPN", TypeAuthority: "AUTHORITY", TypeCRC32C: "CRC32C", TypeNOOP: "NOOP",
		TypeUniqueID: "UNIQUE_ID", TypeSSL: "SSL", TypeNetNS: "NETNS",
		TypeGCP: "GCP", TypeAlibaba: "ALIBABA", TypeAWS: "AWS", TypeAzure: "AZURE",
	}
	sslTypeNames = [...]string{
		TypeSSLVersion: "SSL_VERSION", TypeSSLCommonName: "SSL_CN", TypeSSLCipher: "SSL_CIPHER",
		TypeSSLSigAlg: "SSL_SIG_ALG", TypeSSLKeyAlg: "SSL_KEY_ALG", TypeSSLGroup: "SSL_GROUP",
		TypeSSLSigScheme: "SSL_SIG_SCHEME", TypeSSLClientCert: "SSL_CLIENT_CERT",
	}
)

// String returns the name of a type that appears in the header itself, or the
// name of its range (specification, section 2.2.8).
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	switch {
	case t >= 0xf8:
		return "FUTURE"
	case t >= 0xf0:
		return "EXPERIMENT"
	case t >= 0xe0:
		return "CUSTOM"
	}
	return "RESERVED"
}

// SSLString returns the name of a type that appears within an SSL TLV.
func (t Type) SSLString() string {
	if int(t) < len(sslTypeNames) && sslTypeNames[t] != "" {
		return sslTypeNames[t]
	}
	return "RESERVED"
}

// ParseType returns the type with a name that [Type.String] or [Type.SSLString]
// returns, in either case. withinSSL reports which of the two. ok is false for
// a name of no type, the names of ranges included.
func ParseType(name string) (t Type, withinSSL, ok bool) {
	if name == "" {
		return 0, false, false
	}
	upper := strings.ToUpper(name)
	if i := slices.Index(typeNames[:], upper); i >= 0 {
		return Type(i), false, true
	}
	if i := slices.Index(sslTypeNames[:], upper); i >= 0 {
		return Type(i), true, true
	}
	return 0, false, false
}

// TypeNames returns the names of all types, those within an SSL TLV last.
func TypeNames() []string {
	unnamed := func(name string) bool { return name == "" }
	return slices.DeleteFunc(slices.Concat(typeNames[:], sslTypeNames[:]), unnamed)
}

// TLV is one type-length-value. The value of a decoded TLV aliases the input. The
// sender, and often the client, chose it: it may hold any byte.
type TLV struct {
	Type  Type
	Value []byte
}

// All returns an iterator over the TLVs of a region, in order. The region is a
// [Header.TLVs] or [SSL.TLVs]. The iterator stops at the first TLV that exceeds
// the region, which cannot happen in a region that [Decode] checked. It does not
// allocate.
func All(region []byte) iter.Seq[TLV] {
	return func(yield func(TLV) bool) {
		for len(region) > 0 {
			tlv, rest, reason := cutTLV(region)
			if reason != 0 || !yield(tlv) {
				return
			}
			region = rest
		}
	}
}

// Find returns the value of the first TLV of type t in a region, the one that
// counts if a sender repeats a type. ok is false if there is none.
func Find(region []byte, t Type) (value []byte, ok bool) {
	for tlv := range All(region) {
		if tlv.Type == t {
			return tlv.Value, true
		}
	}
	return nil, false
}

// cutTLV cuts the first TLV off a non-empty region.
func cutTLV(region []byte) (TLV, []byte, Reason) {
	if len(region) < tlvFixedLength {
		return TLV{}, nil, ReasonStrayBytes
	}
	end := tlvFixedLength + int(binary.BigEndian.Uint16(region[1:]))
	if end > len(region) {
		return TLV{}, nil, ReasonTLVOverrun
	}
	return TLV{Type(region[0]), region[tlvFixedLength:end:end]}, region[end:], 0
}

// checkTLVs walks the region at the end of header and verifies the checksum of
// the header. It reports whether there is one. Of the values it checks only the
// lengths that the specification defines.
func checkTLVs(header, region []byte) (summed bool, reason Reason) {
	var sum []byte
	sumAt := 0
	for len(region) > 0 {
		tlv, rest, reason := cutTLV(region)
		if reason != 0 {
			return false, reason
		}
		switch tlv.Type {
		case TypeCRC32C:
			if len(tlv.Value) != checksumLength {
				return false, ReasonChecksumLength
			}
			if sum != nil {
				return false, ReasonChecksumTwice
			}
			sum, sumAt = tlv.Value, len(header)-len(rest)-checksumLength
		case TypeUniqueID:
			if len(tlv.Value) > MaxUniqueID {
				return false, ReasonUniqueID
			}
		case TypeSSL:
			if reason := checkSSL(tlv.Value); reason != 0 {
				return false, reason
			}
		}
		region = rest
	}
	if sum == nil {
		return false, 0
	}
	if checksum(header, sumAt) != binary.BigEndian.Uint32(sum) {
		return false, ReasonChecksumWrong
	}
	return true, 0
}

// checkOpaque verifies the checksum of a header whose block is opaque: LOCAL or
// UNSPEC. Its TLVs begin with the block, as HAProxy and AWS send them, or after
// the addresses of the family. It returns the index of the checksum, or that of
// the last byte if there is none.
func checkOpaque(header []byte) (at int, reason Reason) {
	at, reason = len(header)-1, ReasonChecksumMissing
	for _, from := range [...]int{fixedLength, fixedLength + familyLength(header[protocolAt])} {
		i, ok := checksumAt(header, from)
		if !ok {
			continue
		}
		if checksum(header, i) == binary.BigEndian.Uint32(header[i:]) {
			return i, 0
		}
		at, reason = i, ReasonChecksumWrong
	}
	return at, reason
}

// checksumAt returns the index of the value of the only CRC32C in the TLVs that
// begin at an index of header. ok is false if there is not exactly one, or if the
// bytes up to the end of header are not TLVs.
func checksumAt(header []byte, from int) (at int, ok bool) {
	if from > len(header) {
		return 0, false
	}
	for region := header[from:]; len(region) > 0; {
		tlv, rest, reason := cutTLV(region)
		if reason != 0 || tlv.Type == TypeCRC32C && (ok || len(tlv.Value) != checksumLength) {
			return 0, false
		}
		if tlv.Type == TypeCRC32C {
			at, ok = len(header)-len(rest)-checksumLength, true
		}
		region = rest
	}
	return at, ok
}

// checkSSL walks the TLVs within an SSL TLV. It does not descend into nested SSL
// TLVs, because a header could nest them thousands of levels deep.
func checkSSL(value []byte) Reason {
	if len(value) < sslFixedLength {
		return ReasonSSLShort
	}
	var reason Reason
	for region := value[sslFixedLength:]; len(region) > 0 && reason == 0; {
		_, region, reason = cutTLV(region)
	}
	return reason
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the CRC32C of a whole header, with the four bytes of its own
// checksum at the index at taken as zero (specification, section 2.2.3). It does
// not modify the header.
func checksum(header []byte, at int) uint32 {
	sum := ^crc32.Update(0, castagnoli, header[:at])
	for range checksumLength {
		sum = castagnoli[byte(sum)] ^ sum>>8
	}
	return crc32.Update(^sum, castagnoli, header[at+checksumLength:])
}

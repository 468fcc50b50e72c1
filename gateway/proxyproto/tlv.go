package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"slices"
	"strings"
)

// Type is the type of a TLV (specification, section 2.2.1).
type Type byte

// The types of TLVs, and those of the TLVs within SSL.
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

	// Types that vendors took from the range for custom use. They have no
	// owner: another sender may mean something else by them.
	TypeGCP     Type = 0xe0
	TypeAlibaba Type = 0xe1
	TypeAWS     Type = 0xea
	TypeAzure   Type = 0xee
)

// MaxUniqueID is the longest UNIQUE_ID that is taken, in bytes.
const MaxUniqueID = 128

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

// String returns the name of a type in the header itself, or the name of its
// range if the type has none.
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

// SSLString returns the name of a type within an SSL TLV.
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

// TLV is one type-length-value. When decoded, its value aliases the input; it
// was chosen by the sender, often by the client, and may hold any byte.
type TLV struct {
	Type  Type
	Value []byte
}

// All returns the TLVs of a region, in order: of [Header.TLVs] or of
// [SSL.TLVs]. It stops at the first one that does not fit, which cannot happen
// in a region that [Decode] has checked. It does not allocate.
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

// Find returns the value of the first TLV of type t in a region. A type may
// be repeated; where one value is wanted the first one counts.
func Find(region []byte, t Type) ([]byte, bool) {
	for tlv := range All(region) {
		if tlv.Type == t {
			return tlv.Value, true
		}
	}
	return nil, false
}

// cutTLV cuts the first TLV off a region that is not empty.
func cutTLV(region []byte) (TLV, []byte, Reason) {
	if len(region) < 3 {
		return TLV{}, nil, ReasonStrayBytes
	}
	end := 3 + int(binary.BigEndian.Uint16(region[1:]))
	if end > len(region) {
		return TLV{}, nil, ReasonTLVOverrun
	}
	return TLV{Type(region[0]), region[3:end:end]}, region[end:], 0
}

// checkTLVs walks the region at the end of header and verifies the checksum
// over all of it. What the values say is of no concern here, but for their
// lengths where these are laid down.
func checkTLVs(header, region []byte, requireChecksum bool) Reason {
	var sum []byte
	sumAt := 0
	for len(region) > 0 {
		tlv, rest, reason := cutTLV(region)
		if reason != 0 {
			return reason
		}
		switch tlv.Type {
		case TypeCRC32C:
			if len(tlv.Value) != 4 {
				return ReasonChecksumLength
			}
			if sum != nil {
				return ReasonChecksumTwice
			}
			sum, sumAt = tlv.Value, len(header)-len(rest)-4
		case TypeUniqueID:
			if len(tlv.Value) > MaxUniqueID {
				return ReasonUniqueID
			}
		case TypeSSL:
			if reason := checkSSL(tlv.Value); reason != 0 {
				return reason
			}
		}
		region = rest
	}
	if sum == nil {
		if requireChecksum {
			return ReasonChecksumMissing
		}
		return 0
	}
	if checksum(header, sumAt) != binary.BigEndian.Uint32(sum) {
		return ReasonChecksumWrong
	}
	return 0
}

// checkSSL walks one level only: a TLV within SSL that calls itself SSL is
// not looked into, or a header could be made to nest thousands deep.
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

// checksum returns the CRC32C of a whole header whose own checksum, at the
// index at, counts as four zero bytes (specification, section 2.2.3). The
// header is not touched.
func checksum(header []byte, at int) uint32 {
	sum := ^crc32.Update(0, castagnoli, header[:at])
	for range 4 {
		sum = castagnoli[byte(sum)] ^ sum>>8
	}
	return crc32.Update(^sum, castagnoli, header[at+4:])
}

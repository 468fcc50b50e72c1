package proxyproto

import "strconv"

// Error is the refusal of a header.
type Error struct {
	Reason Reason
	// Offset is the number of bytes, from the first, after which the header
	// could be refused. Fewer would have been incomplete.
	Offset int
}

// Error returns the reason and the offset in words.
func (e *Error) Error() string {
	return "PROXY header refused after " + strconv.Itoa(e.Offset) + " bytes: " + e.Reason.String()
}

// Class sorts the reasons into a few kinds, for counters.
type Class uint8

// The classes.
const (
	// NotProxy: what came is not a PROXY header at all.
	NotProxy Class = iota
	// Malformed: a header that breaks the specification.
	Malformed
	// TooLong: a header longer than the specification or the options allow.
	TooLong
	// Unsupported: a version, command, family or transport that is not
	// defined, or a version that is not accepted.
	Unsupported
	// BadChecksum: a CRC32C that is wrong, or missing where it is required.
	BadChecksum
)

// Reason is why a header was refused. The zero value is no reason.
type Reason uint8

// The reasons.
const (
	_ Reason = iota
	ReasonNoSignature
	ReasonV1NotAccepted
	ReasonV1TooLong
	ReasonBareCR
	ReasonBareLF
	ReasonV1Protocol
	ReasonV1Fields
	ReasonIPv4Syntax
	ReasonIPv4Octet
	ReasonIPv4InTCP6
	ReasonIPv6Charset
	ReasonIPv6DoubleColon
	ReasonIPv6Groups
	ReasonIPv6TooManyGroups
	ReasonIPv6Group
	ReasonPort
	ReasonV2NotAccepted
	ReasonV2Signature
	ReasonV2Version
	ReasonV2Command
	ReasonV2Family
	ReasonV2Transport
	ReasonV2ShortBlock
	ReasonTooLong
	ReasonStrayBytes
	ReasonTLVOverrun
	ReasonUniqueID
	ReasonSSLShort
	ReasonChecksumLength
	ReasonChecksumTwice
	ReasonChecksumWrong
	ReasonChecksumMissing
	ReasonDatagramSignature
	ReasonDatagramShort
	reasons
)

var reasonTable = [reasons]struct {
	class Class
	words string
}{
	0:                       {Malformed, "no reason"},
	ReasonNoSignature:       {NotProxy, "no PROXY signature"},
	ReasonV1NotAccepted:     {Unsupported, "v1 not accepted"},
	ReasonV1TooLong:         {TooLong, "no CRLF in the first 107 bytes"},
	ReasonBareCR:            {Malformed, "bare CR"},
	ReasonBareLF:            {Malformed, "bare LF"},
	ReasonV1Protocol:        {Malformed, "v1 protocol name"},
	ReasonV1Fields:          {Malformed, "v1 field count"},
	ReasonIPv4Syntax:        {Malformed, "ipv4 syntax"},
	ReasonIPv4Octet:         {Malformed, "ipv4 octet"},
	ReasonIPv4InTCP6:        {Malformed, "ipv4 address in a TCP6 line"},
	ReasonIPv6Charset:       {Malformed, "ipv6 charset"},
	ReasonIPv6DoubleColon:   {Malformed, "ipv6 double colon"},
	ReasonIPv6Groups:        {Malformed, "ipv6 group count"},
	ReasonIPv6TooManyGroups: {Malformed, "ipv6 too many groups"},
	ReasonIPv6Group:         {Malformed, "ipv6 group"},
	ReasonPort:              {Malformed, "port"},
	ReasonV2NotAccepted:     {Unsupported, "v2 not accepted"},
	ReasonV2Signature:       {NotProxy, "v2 signature"},
	ReasonV2Version:         {Unsupported, "v2 version"},
	ReasonV2Command:         {Unsupported, "v2 command"},
	ReasonV2Family:          {Unsupported, "v2 address family"},
	ReasonV2Transport:       {Unsupported, "v2 transport"},
	ReasonV2ShortBlock:      {Malformed, "length shorter than the address block"},
	ReasonTooLong:           {TooLong, "header longer than allowed"},
	ReasonStrayBytes:        {Malformed, "stray bytes after last TLV"},
	ReasonTLVOverrun:        {Malformed, "TLV overruns its container"},
	ReasonUniqueID:          {Malformed, "UNIQUE_ID longer than 128"},
	ReasonSSLShort:          {Malformed, "SSL TLV shorter than its fixed part"},
	ReasonChecksumLength:    {Malformed, "CRC32C TLV length"},
	ReasonChecksumTwice:     {Malformed, "CRC32C given twice"},
	ReasonChecksumWrong:     {BadChecksum, "CRC32C mismatch"},
	ReasonChecksumMissing:   {BadChecksum, "CRC32C missing"},
	ReasonDatagramSignature: {NotProxy, "not a v2 signature (v1 is TCP only)"},
	ReasonDatagramShort:     {Malformed, "header does not fit its datagram"},
}

// String returns the reason in a few fixed words.
func (r Reason) String() string { return reasonTable[r].words }

// Class returns the kind of refusal that the reason belongs to.
func (r Reason) Class() Class { return reasonTable[r].class }

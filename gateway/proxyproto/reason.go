package proxyproto

import "strconv"

// Error is the refusal of a header.
type Error struct {
	Reason Reason
	// Offset is the number of bytes after which the header could be refused,
	// counted from its first byte. Fewer bytes were incomplete.
	Offset int
}

// Error returns reason and offset as a sentence.
func (e *Error) Error() string {
	return "PROXY header refused after " + strconv.Itoa(e.Offset) + " bytes: " + e.Reason.String()
}

// Class groups reasons into a few kinds, for counters. The zero value is
// [NotProxy].
type Class uint8

// The classes.
const (
	// NotProxy: the input is not a PROXY header.
	NotProxy Class = iota
	// Malformed: the header violates the specification.
	Malformed
	// TooLong: the header is longer than the specification or the options
	// allow.
	TooLong
	// Unsupported: the version, command, family or transport is undefined, or
	// the options refuse the version.
	Unsupported
	// BadChecksum: the CRC32C is wrong, or missing where it is required.
	BadChecksum
)

// Reason is why a header was refused. The zero value means that it was not.
type Reason uint8

// The reasons. [Reason.String] describes each.
const (
	_ Reason = iota
	ReasonNoSignature
	ReasonV1NotAccepted
	ReasonV1TooLong
	ReasonBareCR
	ReasonBareLF
	ReasonV1NoChecksum
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
	ReasonV1NoChecksum:      {BadChecksum, "CRC32C required, and v1 has none"},
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

// String returns the reason as a short phrase, such as "bare LF". It panics for
// an undefined reason.
func (r Reason) String() string { return reasonTable[r].words }

// Class returns the class of the reason. It panics for an undefined reason.
func (r Reason) Class() Class { return reasonTable[r].class }

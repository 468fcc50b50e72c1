package engine

import (
	"time"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// tell reports a finished session.
func (s *session) tell(l *loop) {
	if l.engine.config.Report == nil {
		return
	}
	r := &l.report
	*r = record.Connection{
		ID:          s.id,
		Forward:     s.listener.Name,
		Peer:        s.peer,
		Client:      s.client,
		Destination: s.destination,
		Backend:     s.backend.Addr,
		BackendPath: s.backend.Path,
		Transparent: s.source.IsValid(),
		Version:     s.version,
		Outcome:     s.failure,
		Phase:       s.ended,
		By:          s.failedBy,
		Reason:      s.reason,
		Offset:      s.offset,
		Sample:      s.sampled,
		BytesIn:     s.sides[peer].bytes,
		BytesOut:    s.sides[backend].bytes,
		Duration:    time.Duration(l.now - s.began),
		Details:     s.details,
	}
	if s.source.IsValid() && s.source != s.client {
		r.Source = s.source
	}
	if s.headed != 0 {
		r.HeaderTime = time.Duration(s.headed - s.began)
	}
	if s.joined != 0 {
		r.ConnectTime = time.Duration(s.joined - s.headed)
		r.Duration = max(r.Duration, time.Duration(s.joined-s.began))
	}
	l.engine.config.Report(r)
}

// sample keeps the beginning of a refused header for the log.
func (s *session) sample(b []byte) {
	s.sampled = append([]byte(nil), b[:min(len(b), sampleSize)]...)
}

// details copies what is worth a line from a header's TLVs; nil when there is
// nothing.
func details(tlvs []byte) *record.Details {
	if len(tlvs) == 0 {
		return nil
	}
	var d record.Details
	for t := range proxyproto.All(tlvs) {
		switch t.Type {
		case proxyproto.TypeAuthority:
			d.Authority = cut(t.Value)
		case proxyproto.TypeALPN:
			d.ALPN = cut(t.Value)
		case proxyproto.TypeUniqueID:
			d.UniqueID = cut(t.Value)
		case proxyproto.TypeSSL:
			sslDetails(&d, t.Value)
		case proxyproto.TypeAWS:
			if id, ok := proxyproto.AWSVPCEndpoint(t.Value); ok {
				d.AWSVPCEndpoint = cut(id)
			}
		case proxyproto.TypeAzure:
			d.AzureLink, d.HasAzureLink = proxyproto.AzureLinkID(t.Value)
		case proxyproto.TypeGCP:
			d.GCPConnection, d.HasGCPConnection = proxyproto.GCPConnectionID(t.Value)
		}
	}
	if d == (record.Details{}) {
		return nil
	}
	return &d
}

func sslDetails(d *record.Details, value []byte) {
	ssl, ok := proxyproto.ParseSSL(value)
	if !ok {
		return
	}
	for t := range proxyproto.All(ssl.TLVs) {
		switch t.Type {
		case proxyproto.TypeSSLVersion:
			d.TLSVersion = cut(t.Value)
		case proxyproto.TypeSSLCommonName:
			d.TLSCommonName = cut(t.Value)
		}
	}
}

func cut(b []byte) string { return string(b[:min(len(b), record.MaxDetail)]) }

package engine

// The kinds of descriptor that a loop watches, and the owner that the key of its [tag] names.
const (
	tagPeer     = iota // a session's socket to the peer: sessionRef.key
	tagBackend         // a session's socket to the backend: sessionRef.key
	tagListener        // a listening socket: its index in loop.listeners
	tagOther           // the loop's eventfd if the key is 0, else the guest's descriptor with that key
)

const tagKindBits = 2

// tag is the data of an epoll event: in the low two bits the kind of the descriptor, above them a
// key of 62 bits that names its owner.
type tag uint64

func newTag(kind int, key uint64) tag { return tag(key<<tagKindBits | uint64(kind)) }

// split is the inverse of newTag.
func (t tag) split() (kind int, key uint64) {
	return int(t & (1<<tagKindBits - 1)), uint64(t >> tagKindBits)
}

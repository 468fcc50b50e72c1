package supervise

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// handed is one entry of a list of sockets. Descriptors start at childFirst, in the
// order of the list.
type handed struct {
	Name string
	Held bool
}

const (
	// inlineList is the length of the longest list that is passed in the environment,
	// where one variable may have 128 KiB (MAX_ARG_STRLEN, execve(2)). A longer list is
	// passed in a file, whose descriptor follows those of the sockets.
	inlineList = 64 << 10
	// fileMark is the prefix of the variable's value if the list is in a file. The
	// number of the descriptor follows.
	fileMark = "fd:"
)

// socketList names the sockets that are passed to a child.
type socketList struct {
	variable string   // the value of upgradeMark
	file     *os.File // nil for a short list
}

func newSocketList(sockets []Socket) (socketList, error) {
	all := make([]handed, len(sockets))
	for i, s := range sockets {
		all[i] = handed{Name: s.Name, Held: s.Held}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return socketList{}, fmt.Errorf("list the sockets for the new process: %w", err)
	}
	if len(text) <= inlineList {
		return socketList{variable: string(text)}, nil
	}
	fd, err := unix.MemfdCreate("unproxy sockets", unix.MFD_CLOEXEC)
	if err != nil {
		err = os.NewSyscallError("memfd_create", err)
		return socketList{}, fmt.Errorf("name the sockets for the new process: %w", err)
	}
	f := os.NewFile(uintptr(fd), "sockets")
	if _, err := f.Write(text); err != nil {
		f.Close()
		return socketList{}, fmt.Errorf("list the sockets for the new process: %w", err)
	}
	return socketList{variable: fileMark + strconv.Itoa(childFirst+len(sockets)), file: f}, nil
}

func (l socketList) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// readSocketList decodes the value of the variable.
func readSocketList(value string) ([]Socket, error) {
	text := []byte(value)
	if number, inFile := strings.CutPrefix(value, fileMark); inFile {
		var err error
		if text, err = readFile(number); err != nil {
			return nil, fmt.Errorf("read %s: %w", upgradeMark, err)
		}
	}
	var all []handed
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read %s: %w", upgradeMark, err)
	}
	var found []Socket
	for i, h := range all {
		found = append(found, Socket{FD: childFirst + i, Name: h.Name, Held: h.Held})
	}
	return found, nil
}

// readFile reads and closes the file with a descriptor.
func readFile(number string) ([]byte, error) {
	fd, err := strconv.Atoi(number)
	if err != nil || fd < childFirst {
		return nil, fmt.Errorf("%.40q is not a descriptor", number)
	}
	f := os.NewFile(uintptr(fd), "sockets")
	defer f.Close()
	// The file offset is at the end of what the parent wrote.
	return io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
}

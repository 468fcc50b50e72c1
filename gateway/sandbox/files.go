package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// newest is the newest version of the interface whose rights are used. Later versions
// restrict sockets and signals, which the gateway needs for any address of a backend.
const newest = 5

// Files are the files and directories that stay accessible, each directory with all that
// is below it. Of a symbolic link the target is meant; its directory is accessible, too,
// if it exists when the policy is applied. What does not exist is left out. Open files
// are not affected.
type Files struct {
	// Read may be read, Run also executed.
	Read, Run []string
	// Sockets are directories in which unix sockets may be made and removed.
	Sockets []string
	// Write are directories in which files may be created, changed and removed.
	Write []string
	// Devices are files that may be read and written.
	Devices []string
}

// The rights of Landlock (landlock(7)). A file can have only those in ofFiles.
const (
	readRights   = ll.AccessFSReadFile | ll.AccessFSReadDir
	runRights    = readRights | ll.AccessFSExecute
	socketRights = ll.AccessFSMakeSock | ll.AccessFSRemoveFile | ll.AccessFSReadDir
	deviceRights = ll.AccessFSReadFile | ll.AccessFSWriteFile
	writeRights  = deviceRights | ll.AccessFSReadDir | ll.AccessFSMakeReg | ll.AccessFSRemoveFile | ll.AccessFSTruncate
	ofFiles      = runRights&^ll.AccessFSReadDir | ll.AccessFSWriteFile | ll.AccessFSTruncate
)

// LandlockVersion returns the version of Landlock that restricts files on this kernel, as
// [Report] has it; 0 is none.
func LandlockVersion() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return min(version, newest)
}

// restrict denies all other files to every thread, by the newest version of Landlock that
// the kernel has, and returns the version. The error is that the kernel has none, or that
// the rules were refused.
func (f Files) restrict() (version int, err error) {
	version, err = ll.LandlockGetABIVersion()
	if err != nil {
		return 0, fmt.Errorf("this kernel does not offer it: %w", err)
	}
	if version == 0 {
		return 0, errors.New("this kernel does not offer it")
	}
	rules := slices.Concat(permit(readRights, f.Read), permit(runRights, f.Run), permit(socketRights, f.Sockets),
		permit(writeRights, f.Write), permit(deviceRights, f.Devices))
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return 0, err
	}
	return min(version, newest), nil
}

// permit returns a rule for each of the paths that exists, and for what its symbolic
// links lead to.
func permit(rights landlock.AccessFSSet, paths []string) (rules []landlock.Rule) {
	for _, path := range paths {
		info, err := os.Stat(path) // follows links, as the rule does
		if err != nil {
			continue
		}
		has := rights
		if !info.IsDir() {
			has &= ofFiles
		}
		rules = append(rules, landlock.PathAccess(has, path).IgnoreIfMissing())
	}
	return rules
}

// Package attach loads the BPF programs of the TCP option and attaches them to cgroups:
// on the backend's host those that make a server see the client, on the gateway's host
// those that write the option. Commands use it. The gateway's process does not: it talks
// to the programs with setsockopt(2) and getsockopt(2), see package toa.
//
// The programs are C, in the folder bpf; scripts/bpf compiles them, and their object
// files are part of the package. They are attached with BPF_PROG_ATTACH and
// BPF_F_ALLOW_MULTI, beside the programs of others. Nothing is pinned: the cgroup holds
// the programs, the programs hold the maps, and all of it ends with the cgroup or with
// [Detach]. Programs are found again by their names, with BPF_PROG_QUERY.
//
// # Order
//
// Nothing may be promised that is not there. The programs that show the client are
// attached first, then the gate, and the one that promises last. Detaching goes the other
// way. An upgrade replaces each program at once (BPF_F_REPLACE, Linux 5.6) and keeps the
// maps, so that accepted connections keep their clients.
//
// # Privileges
//
// Everything takes CAP_SYS_ADMIN and CAP_NET_ADMIN in the initial user namespace: root, but
// not that of a rootless container. CAP_BPF is not enough, because attached programs are
// found by number. Marking listeners in network namespaces of other users' processes also
// takes CAP_SYS_PTRACE.
//
// Calls on one cgroup exclude each other, in other processes too (flock(2) on its
// directory). All functions may be called concurrently.
package attach

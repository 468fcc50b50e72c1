// Package routing is where a plan of package returnpath meets this host: it
// looks where backends are, says what of a plan is not in force, and puts it into
// force or takes it away again. It speaks netlink for routes and rules, and runs
// nft(8) for the packet filter, with the very text that the plan prints.
//
// Looking takes no capability, except at the packet filter; changing takes
// CAP_NET_ADMIN. Nothing is kept in files: what is in force is asked of the
// kernel, so that a run that was killed is finished by the next one.
package routing

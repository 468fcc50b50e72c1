// Package routing reads and changes this host's routing configuration: it locates
// backends, determines which parts of a plan of package returnpath are missing,
// and applies or removes them; and it lists and watches the host's own addresses.
// It uses netlink for routes and rules, and runs nft(8) for the packet filter, with
// exactly the text that the plan prints.
//
// Reading needs no capability, except for the packet filter; changing needs
// CAP_NET_ADMIN. Apart from an [AddressWatch], the package keeps no state: it
// queries the kernel each time, so an interrupted run can simply be repeated.
package routing

//! Networks of containers with real packets, in namespaces of their own.
//!
//! Every test has a host that is only a namespace, so they run side by side and the
//! machine's own network is never touched. They need root (or rather CAP_NET_ADMIN
//! and CAP_SYS_ADMIN) and `ip`; without, they say so.

mod comings;
mod crashes;
mod firewall;
mod reach;
mod refusals;
mod repairs;
mod six;
mod stage;

//! The runtime with real processes: its own keeper, real programs, real signals.
//!
//! Every test has its own directory and keeper, so they run side by side, as
//! root and as anybody. None sleeps to let something happen: they await events
//! and output, or look for a condition until a deadline.

mod alone;
mod crashes;
mod files;
mod full;
mod input;
mod logs;
mod murders;
mod orders;
mod reuse;
mod speed;
mod stage;
mod starts;
mod stops;

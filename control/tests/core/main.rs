//! The control core with IKE peers around it.

mod bench;
mod calls;
mod pair;
mod reload;
mod stale;

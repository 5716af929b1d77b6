//! The control core with IKE peers around it.

mod bench;
mod calls;
mod pair;
mod pins;
mod reload;
mod stale;
mod upgrade;

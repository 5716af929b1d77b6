//! The control core with IKE peers around it.

mod bench;
mod calls;
mod doubt;
mod gone;
mod in_hand;
mod joins;
mod ladder;
mod moves;
mod notices;
mod orders;
mod pair;
mod patience;
mod pins;
mod protection;
mod reasons;
mod reload;
mod stale;
mod standby;
mod upgrade;

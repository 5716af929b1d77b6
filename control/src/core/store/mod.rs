//! What a successor will need, in the backups' stores: records of SAs, numbers, pins, standings, and the IKE SA in hand; how it is written,
//! when it counts as written, and how it is read.

pub(super) mod in_hand;
pub(super) mod pin_table;
pub(super) mod pins;
pub(super) mod publishing;
pub(super) mod records;
pub(super) mod replica;
pub(super) mod standings;

//! Two appliances on one host: the region is a memory file of fixed size, passed over a Unix socket.
//!
//! Each side creates the region that it keeps for the other, and sends it with its hello. The socket carries the control
//! messages after that, and its end tells that the peer process is gone, or gave up.

mod link;
mod mapping;
mod socket;

pub use link::pair;
pub(crate) use mapping::create_memory;
pub use mapping::{Mapping, Protection};
pub use socket::{Connection, Listener, Received};

//! Two appliances on one host: the region is a sealed memory file, passed over a Unix socket.

mod mapping;

pub use mapping::{Mapping, Protection};

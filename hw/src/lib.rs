//! Safe wrappers over DPDK: the EAL, mempools, mbufs, ports and their queues as the data plane's buffer traits want them, and
//! [crypto devices](crypto).
//!
//! Everything is RAII, and everything holds the EAL alive: a port stops and detaches its device when the last handle on it goes,
//! a mempool is freed when all its buffers are back, and the EAL is cleaned up last. The dataplane's hot path, [`QueuePair`]
//! and [`Mbuf`], neither allocates nor touches a shared counter.
//!
//! ```no_run
//! use vipsec_hw::{Eal, EalOptions, Mempool, MempoolOptions, Port, PortOptions};
//! use vipsec_wire::buffer::{Burst, PortIo};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::init(&EalOptions::new("vipsec-a"))?;
//! let pool = Mempool::new(&eal, &MempoolOptions::new("packets"))?;
//! let (port, queues) = Port::start(&eal, "net_af_packet0,iface=out0", &pool, &PortOptions::default())?;
//! for mut queue in queues {
//!     let eal = eal.clone();
//!     std::thread::spawn(move || {
//!         let _registered = eal.register_thread();
//!         let mut burst = Burst::new();
//!         queue.receive(&mut burst);
//!     });
//! }
//! # Ok(())
//! # }
//! ```

mod capabilities;
pub mod crypto;
mod device;
mod eal;
mod errno;
mod mbuf;
mod mempool;
mod netdev;
mod port;
mod queue;
mod stats;
mod thread;

pub use capabilities::{Capabilities, EspPart, InlineEsp, Offload, Rss};
pub use device::DeviceError;
pub use eal::{Eal, EalError, EalOptions, Hugepages, MemoryBacking, dpdk_version};
pub use errno::Errno;
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolError, MempoolOptions};
pub use port::{FewerQueues, Link, Port, PortError, PortOptions};
pub use queue::QueuePair;
pub use stats::{PortStats, QueueStats};
pub use thread::{RegisteredThread, ThreadError};

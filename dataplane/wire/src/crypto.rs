//! Crypto devices beside the packets' way (lookaside), as a trait: a cryptodev in production, a queue in memory in a test.
//!
//! A worker hands packets over in bursts and gets them back encrypted or decrypted, later. [`SessionId`]s stand for keys.

use std::ops::Range;

use thiserror::Error;

use crate::buffer::{Burst, PacketBuf};

/// Length of a nonce in bytes: salt and IV (RFC 4106 §4, RFC 7634 §2).
pub const NONCE_LEN: usize = 12;
/// Most bytes of additional authenticated data: SPI and extended sequence number (RFC 4106 §5).
pub const AAD_MAX: usize = 12;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 16;

/// An AEAD, as an ESP transform. Salt, explicit IV and ICV have the same lengths in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 128-bit key and a 16-byte ICV (RFC 4106).
    Aes128Gcm,
    /// AES-GCM with a 256-bit key and a 16-byte ICV (RFC 4106).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Length of the cipher's key in bytes, without the salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// What a session's jobs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Encrypt, and write the tag.
    Seal,
    /// Check the tag, and decrypt.
    Open,
}

/// What a session is made of.
#[derive(Clone, Copy)]
pub struct SessionParams<'a> {
    /// The AEAD.
    pub algorithm: Algorithm,
    /// What its jobs do.
    pub direction: Direction,
    /// The key: [`Algorithm::key_len`] bytes. The device keeps what it makes of it, until the session is closed, and wipes it then.
    pub key: &'a [u8],
    /// Bytes of additional authenticated data of each job, at most [`AAD_MAX`].
    pub aad_len: usize,
}

/// No session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The key's length doesn't fit the algorithm.
    #[error("the key's length doesn't fit the algorithm")]
    BadKey,
    /// More additional data than ESP has.
    #[error("at most {AAD_MAX} bytes of additional authenticated data")]
    BadAad,
    /// The device can't do that.
    #[error("the device doesn't support the algorithm")]
    Unsupported,
    /// It has as many as it may have.
    #[error("the device has as many sessions as it may have")]
    TooMany,
    /// The device refused for another reason, by its error number.
    #[error("the device makes no session (error {0})")]
    Refused(i32),
}

/// A session of one queue. Closed ones are recognized, whatever came in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// Where the queue keeps it.
    pub place: u32,
    /// How many had that place before.
    pub generation: u32,
}

/// A packet to be encrypted or decrypted in place. Offsets count from the packet's first byte.
#[derive(Debug)]
pub struct Job<B> {
    /// The packet.
    pub packet: B,
    /// The session, of the same queue.
    pub session: SessionId,
    /// The caller's own; comes back with the packet.
    pub token: u64,
    /// The nonce. Who seals answers for it: it is never used twice under one key.
    pub nonce: [u8; NONCE_LEN],
    /// Additional authenticated data: as many bytes count as the session has.
    pub aad: [u8; AAD_MAX],
    /// Where the text stands, in bytes.
    pub text: Range<usize>,
    /// Where the tag's [`TAG_LEN`] bytes stand, or belong.
    pub tag: usize,
}

/// A job that came back.
#[derive(Debug)]
pub struct Done<B> {
    /// The packet. After a failure its content is unspecified; in particular it may be plaintext that nobody vouches for.
    pub packet: B,
    /// The job's.
    pub token: u64,
    /// How it went.
    pub result: Result<(), Failure>,
}

/// Why a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// The tag does not fit key, nonce, additional data and text.
    #[error("the authentication tag does not fit")]
    BadTag,
    /// The queue has no such session, or no longer.
    #[error("the crypto session is closed")]
    NoSession,
    /// Text or tag are not within the packet.
    #[error("the job reaches beyond its packet")]
    OutOfBounds,
    /// The device failed.
    #[error("the crypto device failed")]
    Device,
}

/// One queue pair of a crypto device with its sessions, as a worker uses it. The jobs of one session come back in their order.
pub trait CryptoIo: Send {
    /// The buffers that it works on.
    type Buf: PacketBuf;

    /// Most jobs in the device.
    fn jobs_max(&self) -> usize;

    /// Makes a session. Not for the packet path: it may allocate and wait for another queue that does the same.
    fn open_session(&mut self, params: &SessionParams<'_>) -> Result<SessionId, SessionError>;

    /// Closes a session and wipes its key, once the jobs that use it are back. Jobs that are enqueued from now on are refused. A
    /// session that is closed already stays closed.
    fn close_session(&mut self, session: SessionId);

    /// Hands jobs to the device from the front of `jobs`, removing what was taken; what there is no room for stays. Returns the
    /// number taken: each comes back by [`dequeue`](Self::dequeue).
    fn enqueue(&mut self, jobs: &mut Burst<Job<Self::Buf>>) -> usize;

    /// Takes back finished jobs, up to the burst's free capacity; never waits. Returns the number taken back.
    fn dequeue(&mut self, into: &mut Burst<Done<Self::Buf>>) -> usize;
}

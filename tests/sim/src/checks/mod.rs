//! What must never happen, watched at every step.
//!
//! | | how it is seen |
//! | --- | --- |
//! | I1 | [`ivs`]: every frame that anybody puts on a wire. Of the store's records and messages the numbers are the nonces: that they rise, and that no two pairings or grants share a key, `shm-store` tests by itself |
//! | I2, I5 | [`deliveries`]: every packet that an appliance hands to a target |
//! | I3 | `writer`: what an owner takes for acknowledged, against what its successor has read; and through I2 and I4 |
//! | I4, I6 | [`heirs`]: what a successor says it has, against what the remote peer believes |
//! | R1, R2 | [`publications`]: every IKE message that an owner lets go, and what the remote peer makes of it |
//! | R4 | `remote`: what the newest owner sends and the remote peer's replay window refuses |
//! | R5 | [`owners`]: frames from a virtual MAC, after another appliance has begun to act |

pub(crate) mod deliveries;
pub(crate) mod heirs;
pub(crate) mod ivs;
pub(crate) mod lines;
pub(crate) mod owners;
pub(crate) mod publications;

use thiserror::Error;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// I1.
    #[error("I1: {sender} used IV {iv} of {key} for two different messages")]
    IvReused {
        /// The second user.
        sender: String,
        /// SPIs and direction.
        key: String,
        /// In hexadecimal.
        iv: String,
    },
    /// I2.
    #[error("I2: packet {payload} was delivered by appliance {} and again by {}", first + 1, second + 1)]
    DeliveredTwice {
        /// Which.
        payload: u64,
        /// Who delivered it first.
        first: usize,
        /// And again.
        second: usize,
    },
    /// The remote peer took one packet of a target twice.
    #[error("the answer to packet {payload} reached the remote peer's host twice")]
    EchoedTwice {
        /// Which.
        payload: u64,
    },
    /// I3.
    #[error("I3: appliance {} takes a write for acknowledged that {} doesn't know, which had fenced its copy before", owner + 1, successor + 1)]
    AcknowledgedBehindFence {
        /// Who wrote.
        owner: usize,
        /// Who had fenced.
        successor: usize,
    },
    /// I4.
    #[error("I4: appliance {} took over from a trusted copy and doesn't know {what}, in which the remote peer believes", successor + 1)]
    SaLost {
        /// Who took over.
        successor: usize,
        /// By the appliance's SPI.
        what: String,
    },
    /// I5.
    #[error("I5: connection {flow} went to target {} and then to {}", before + 1, after + 1)]
    TargetChanged {
        /// Which.
        flow: u16,
        /// Its target.
        before: usize,
        /// The other one.
        after: usize,
    },
    /// I6.
    #[error("I6: appliance {} resumed {what} though its copy was not trusted", successor + 1)]
    UntrustedResumed {
        /// Who took over.
        successor: usize,
        /// By the appliance's SPI.
        what: String,
    },
    /// I6, before it happens.
    #[error("I6: appliance {} would resume, and the owner {} doesn't wait for its copy", backup + 1, owner + 1)]
    TrustedNotCounted {
        /// Who would resume.
        backup: usize,
        /// Who goes on without it.
        owner: usize,
    },
    /// R5.
    #[error("R5: appliance {} sent from a virtual MAC while {} owned the VIP under epoch {epoch}", actor + 1, owner + 1)]
    TwoActors {
        /// Who should have stopped.
        actor: usize,
        /// Who acts.
        owner: usize,
        /// Under which epoch.
        epoch: u32,
    },
    /// Step 6 of a takeover.
    #[error("appliance {} sent a packet for the VIP before it had advertised it", appliance + 1)]
    NotAdvertised {
        /// Who.
        appliance: usize,
    },
    /// R1.
    #[error("R1: appliance {} let the remote peer use {what}, whose record the copy at {} had not acknowledged", owner + 1, backup + 1)]
    UsedUnpublished {
        /// Who.
        owner: usize,
        /// Whose copy.
        backup: usize,
        /// By the appliance's SPI.
        what: String,
    },
    /// R2.
    #[error("R2: appliance {} let a message of IKE SA {ike_sa:016x} go that the copy at {} had not acknowledged", owner + 1, backup + 1)]
    SpokenUnpublished {
        /// Who.
        owner: usize,
        /// Whose copy.
        backup: usize,
        /// By the appliance's SPI.
        ike_sa: u64,
    },
    /// R4.
    #[error("R4: the remote peer refused {what} as a number that it had seen")]
    NumberRefused {
        /// SA and IV.
        what: String,
    },
    /// Planned moves and ends.
    #[error("nothing went wrong, and appliance {} took over without a trusted copy", successor + 1)]
    NotHandedOver {
        /// Who.
        successor: usize,
    },
    /// Planned moves and ends.
    #[error("nothing went wrong, and packet {payload} was lost")]
    PacketLost {
        /// Which.
        payload: u64,
    },
    /// Healing a split.
    #[error("appliance {} kept serving the remote peers while {} was cut off, and had to go", rightful + 1, owner + 1)]
    Usurped {
        /// Who had the traffic.
        rightful: usize,
        /// Who owns the group now.
        owner: usize,
    },
    /// During a split.
    #[error("appliance {} gave IKE SA {ike_sa:016x} up because its remote peer was silent, which the other appliance served", owner + 1)]
    GivenUpInSplit {
        /// Who.
        owner: usize,
        /// By the appliance's SPI.
        ike_sa: u64,
    },
    /// The faults were over, and still something didn't come back.
    #[error("stuck: {0}")]
    Stuck(String),
    /// Two owners without a partition, at the end.
    #[error("the faults are over, and there are two owners")]
    TwoOwners,
}

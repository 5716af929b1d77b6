//! What every way of deciding over a group has in common: where the group stands, what has to be done, and how the one who
//! drives it talks to it.
//!
//! [`Pair`](crate::Pair) lets two appliances decide between themselves, by silence and by how long a copy may be trusted;
//! [`Member`](crate::Member) lets a registry decide among any number of them.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vipsec_wire::iv::{ApplianceId, Epoch};

use crate::advertisement::{Advertisement, AdvertisementError};
use crate::message::Message;
use crate::registry::{Reply, Request};

/// Where a group stands on this appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not ours: another one owns it, or nobody.
    Standby,
    /// We have begun to take it.
    Taking {
        /// `None` until the epoch's reservation is on disk.
        epoch: Option<Epoch>,
    },
    /// Ours.
    Owner {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// It has been told to stop here and goes to another appliance.
    HandingOver {
        /// Under which it was ours.
        epoch: Epoch,
        /// When that one was told; `None` while the workers are stopping and exact numbers go out.
        told: Option<Instant>,
    },
}

/// Why an appliance gave up a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepDownReason {
    /// Another one owns it under a higher (epoch, id).
    Deposed,
    /// It can't be excluded that the backup acted (R7).
    Uncertain,
    /// A backup revoked our right to write into its store.
    Refused,
    /// Moved, as ordered: every worker has stopped for it.
    Moved,
    /// It can't serve, and nobody has a copy: better a new start elsewhere than none.
    Unfit,
}

/// Can this appliance serve?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fitness {
    /// Every worker advances, and the data links are up.
    Fit,
    /// A data link is down. The workers do as they are told, so what is ours can be handed over.
    LinkDown,
    /// A worker stands still, and will not confirm that it has stopped for a group.
    WorkerStuck,
}

/// What has to be done now, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send over the store link.
    Send {
        /// To whom.
        to: ApplianceId,
        /// What.
        message: Message,
    },
    /// Advertise the group's VIPs on both networks.
    Advertise {
        /// Ours.
        epoch: Epoch,
        /// Is there a counted copy?
        protected: bool,
    },
    /// Workers may act until then (R5); `None`: not at all.
    Deadline(Option<Instant>),
    /// Put this floor on disk, then call [`Decider::handle_floor_reserved`].
    ReserveFloor(u32),
    /// End the pairing with that appliance; the driver then pairs anew, with fresh keys and empty regions.
    CloseLink(ApplianceId),
    /// Everything of the group goes into that appliance's region: bind, read, publish; then call
    /// [`Decider::handle_join_published`]. From here on its acknowledgements are waited for.
    Join(ApplianceId),
    /// That appliance's copy is not waited for any more: release what waits for nothing else.
    Release(ApplianceId),
    /// Fence the region that the owner wrote, read the copy, install what it holds, shut; then call [`Decider::handle_staged`].
    Stage {
        /// The new epoch.
        epoch: Epoch,
    },
    /// Open the VIPs: they are ours.
    Activate {
        /// The new epoch.
        epoch: Epoch,
        /// May what was staged be resumed?
        trusted: bool,
    },
    /// Stop every worker for the VIPs, publish exact numbers, then call [`Decider::handle_stopped`].
    Stop,
    /// The move did not happen: open the VIPs again, as they were.
    TakeBack,
    /// How many remote peers have been heard on the group's SAs in that time? Then call [`Decider::handle_served`].
    CountServed {
        /// Nobody has had a copy since.
        since: Instant,
        /// Another owner was first heard of a little later.
        until: Instant,
    },
    /// The group stays ours under a higher epoch: open the VIPs and announce them again, as they were.
    Raise {
        /// The new epoch.
        epoch: Epoch,
    },
    /// Forget the group's SAs without a word to the remote peers.
    StepDown(StepDownReason),
    /// Ask the registry, then call [`Decider::handle_registry`]: also when no answer comes. One request at a time.
    Ask(Request),
}

/// The copy of our group in another appliance's store, as we see it as an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copy {
    /// It has none that counts.
    None,
    /// It is being filled. Its acknowledgements are waited for, but it can't be resumed from yet.
    Joining,
    /// The owner waits for it, and the backup may resume from it.
    Counted,
    /// The link is closed, and the backup may still resume from it.
    Leaving {
        /// Until then at the latest, where that is known by the clock.
        until: Instant,
    },
}

/// How we stand with another appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub appliance: ApplianceId,
    /// The store link is paired.
    pub linked: bool,
    /// Its configuration agrees with ours.
    pub agreed: bool,
    /// It could serve: its newest beat says that its workers advance, its data links are up, and it isn't in doubt.
    pub healthy: bool,
    /// Our copy there.
    pub copy: Copy,
}

/// Why a group doesn't move as ordered: in words that hold at the appliance that was ordered and at the one that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error, Serialize, Deserialize)]
pub enum NotMoved {
    /// Another appliance owns it, or nobody.
    #[error("whoever was asked doesn't own it")]
    NotOwned,
    /// There is nothing to do.
    #[error("it is there already")]
    AlreadyThere,
    /// Nobody is known to own it.
    #[error("no owner of it is known")]
    NoOwner,
    /// An earlier order is being carried out, or it is being taken over.
    #[error("it is on its way already")]
    Moving,
    /// The store link is down.
    #[error("the store link between the two appliances is down")]
    NotLinked,
    /// The configurations of the two are not the same where they have to be.
    #[error("the configurations of the two appliances differ")]
    Differs,
    /// The copy there is still being filled.
    #[error("the copy at its new owner is still being filled")]
    Joining,
    /// There is nothing to go on from.
    #[error("its new owner has no copy that counts")]
    NoCopy,
    /// The appliance that is to own it couldn't serve.
    #[error("its new owner can't serve: a data link is down, or a worker is stuck")]
    Unfit,
    /// R7.
    #[error("its owner is finding out whether another appliance has begun to take it over")]
    InDoubt,
}

/// For the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where the group stands here.
    pub role: Role,
    /// The other appliance that owns it, if one is known to.
    pub owner: Option<ApplianceId>,
    /// The highest epoch that anybody was seen with.
    pub seen: Epoch,
    /// We hold a copy of the owner's, and would resume from it now.
    pub trusted: bool,
    /// Looks in a row without a sign of life of the owner.
    pub silent_looks: u32,
    /// The other appliances, best rank first.
    pub peers: Vec<PeerStatus>,
}

impl Status {
    /// Does a copy count?
    pub fn is_protected(&self) -> bool {
        self.peers.iter().any(|peer| peer.copy == Copy::Counted)
    }
}

/// One appliance's part in the decision over one group: fed with messages, advertisements and time, it answers with [`Action`]s.
///
/// A pair has one peer, and takes whatever it is told of a peer as of that one.
pub trait Decider: Send {
    /// When [`Decider::handle_timeout`] is due.
    fn poll_timeout(&self) -> Instant;
    /// What to do next.
    fn poll_action(&mut self) -> Option<Action>;
    /// Looks, speaks, decides: once every interval. All messages that arrived before `now` must have been handled.
    fn handle_timeout(&mut self, now: Instant);
    /// The store link is paired with that process. `agreed`: the configurations that matter are the same.
    fn handle_link_up(&mut self, now: Instant, peer: ApplianceId, process: u64, agreed: bool);
    /// The store link is closed, from whichever side.
    fn handle_link_down(&mut self, now: Instant, peer: ApplianceId);
    /// A message over the store link: authenticated, in order, of this pairing.
    fn handle_message(&mut self, now: Instant, peer: ApplianceId, message: &Message);
    /// An advertisement of one of the group's VIPs that authenticated.
    fn handle_advertisement(&mut self, now: Instant, advertisement: &Advertisement) -> Result<(), AdvertisementError>;
    /// How this appliance is. An owner whose data link goes down hands over by itself, once; what nobody takes then is taken from it as from
    /// one that is silent, which is what it is.
    fn handle_health(&mut self, fitness: Fitness);
    /// The group moved too often: it moves no more by itself, or may again. While it doesn't, an owner that says that it lives isn't
    /// succeeded only because it can't serve; a dead one is.
    fn handle_hold(&mut self, held: bool);
    /// The floor is on disk.
    fn handle_floor_reserved(&mut self, now: Instant, value: u32);
    /// What came of [`Action::Ask`].
    fn handle_registry(&mut self, _now: Instant, _reply: Reply) {}
    /// What came of [`Action::CountServed`].
    fn handle_served(&mut self, _now: Instant, _count: u32) {}
    /// Everything that was bound at [`Action::Join`] is acknowledged.
    fn handle_join_published(&mut self, now: Instant, peer: ApplianceId);
    /// The copy can't be filled: go on without it, paired or not. False where it counts already.
    fn give_up_join(&mut self, peer: ApplianceId) -> bool;
    /// A write into that appliance's store was refused: the grant is revoked, so the backup has begun.
    fn handle_refused(&mut self, now: Instant, peer: ApplianceId);
    /// What the copy holds is installed, shut. Trust is judged here, last.
    fn handle_staged(&mut self, now: Instant);
    /// Every worker confirmed its stop for the group, and the exact numbers are acknowledged.
    fn handle_stopped(&mut self, now: Instant);
    /// The operator wants the group at that appliance.
    fn order_move(&mut self, to: ApplianceId) -> Result<(), NotMoved>;
    /// The operator wants the group here: its owner is asked for it.
    fn order_here(&mut self) -> Result<(), NotMoved>;
    /// For the operator.
    fn status(&self, now: Instant) -> Status;
    /// Was the floor known when this process began? Without it nothing is resumed that was created before it joined.
    fn floor_is_known(&self) -> bool;
    /// The process is about to end. A backup whose word counts gives up what it holds, says so, and takes nothing from here on; where a
    /// registry decides, its list is what counts.
    fn retire(&mut self) {}
    /// Where the group stands.
    fn role(&self) -> Role;
    /// Do we hold a copy whose join was completed, trusted or not?
    fn holds_copy(&self) -> bool;

    /// We own the group, and the other appliance went without a word, then: it may own it, too, and serve remote peers. `None` where that
    /// can't be.
    fn missing_since(&self) -> Option<Instant> {
        None
    }

    /// The epoch under which this appliance owns the group.
    fn owned_epoch(&self) -> Option<Epoch> {
        match self.role() {
            Role::Owner { epoch } => Some(epoch),
            _ => None,
        }
    }
}

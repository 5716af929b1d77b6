//! The operator's orders to move a group: each is answered when it is known what came of it.

use std::time::{Duration, Instant};

use vipsec_takeover::decider::{NotMoved, Role};
use vipsec_takeover::moves::MovesSeen;
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::groups::side;
use crate::api::{ApiError, ErrorKind, Moved, Response};
use crate::core::{Core, Output};

/// So long a move may take. One that nobody takes is taken back, or the group is given up, within less.
const ORDER_MAX: Duration = Duration::from_secs(3);
/// Most orders that are followed at a time.
const ORDERS_MAX: usize = 64;

/// An order that is being carried out.
#[derive(Debug)]
struct Order {
    /// The request's; `None`: another appliance's operator gave it.
    token: Option<u64>,
    group: usize,
    to: ApplianceId,
    /// Under which the group was owned before.
    epoch: Epoch,
    given: Instant,
    /// The moves that it made forgotten; they count again if it comes to nothing.
    forgotten: MovesSeen,
}

/// The orders that are being carried out.
#[derive(Debug, Default)]
pub(in crate::core) struct Orders(Vec<Order>);

/// What came of an order.
enum Outcome {
    Moved(Epoch),
    NotMoved(ApiError),
}

impl Core {
    /// Moves a VIP's group to an appliance, or fetches it. Answered when it is there, or will not come there.
    pub(in crate::core) fn order_vip(&mut self, now: Instant, token: u64, vip: &str, to: &str) {
        if let Err(error) = self.begin_order(now, token, vip, to) {
            self.outputs.push_back(Output::Reply(token, Err(error)));
        }
    }

    fn begin_order(&mut self, now: Instant, token: u64, name: &str, to: &str) -> Result<(), ApiError> {
        let refused = |reason: &dyn std::fmt::Display| ApiError::new(ErrorKind::Refused, reason.to_string());
        let vip = self.config.vips.iter().find(|vip| vip.name == name);
        let vip = vip.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("no VIP {name:?}")))?;
        let to = self
            .config
            .appliance_named(to)
            .ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("no appliance {to:?} here")))?;
        let (me, group) = (self.config.appliance.id, usize::from(vip.group));
        if self.orders.0.len() >= ORDERS_MAX {
            return Err(ApiError::new(ErrorKind::Busy, "too many orders are being carried out"));
        }
        let side = side(&mut self.groups, group)
            .ok_or_else(|| refused(&"this appliance has no peer, or no rank in that VIP's group"))?;
        let status = side.decider.status(now);
        if to != me && status.owner == Some(to) {
            return Err(refused(&NotMoved::AlreadyThere));
        }
        let ordered = if to == me { side.decider.order_here() } else { side.decider.order_move(to) };
        ordered.map_err(|reason| refused(&reason))?;
        // Of one that is fetched its owner says so, once it has begun to move.
        let forgotten = if to == me { MovesSeen::default() } else { self.note_order(now, group) };
        self.orders.0.push(Order { token: Some(token), group, to, epoch: status.seen, given: now, forgotten });
        Ok(())
    }

    /// Another appliance has asked for the group, and gets it.
    pub(in crate::core) fn note_wanted(&mut self, now: Instant, group: usize, by: ApplianceId, epoch: Epoch) {
        tracing::info!(group = self.group_name(group), appliance = %by, "that appliance's operator wants it there: it moves");
        let forgotten = self.note_order(now, group);
        if self.orders.0.len() < ORDERS_MAX {
            self.orders.0.push(Order { token: None, group, to: by, epoch, given: now, forgotten });
        }
    }

    /// We have asked its owner for the group, and don't get it.
    pub(in crate::core) fn note_refused(&mut self, group: usize, owner: ApplianceId, reason: NotMoved) {
        tracing::warn!(group = self.group_name(group), appliance = %owner, %reason, "its owner doesn't hand it over");
        let me = self.config.appliance.id;
        let owner = self.config.appliance_name(owner);
        for order in self.orders.0.extract_if(.., |order| order.group == group && order.to == me).collect::<Vec<_>>() {
            let error = ApiError::new(ErrorKind::Refused, format!("not taken: {owner} doesn't hand it over: {reason}"));
            self.end_order(order, Outcome::NotMoved(error));
        }
    }

    /// What has come of the orders?
    pub(in crate::core) fn check_orders(&mut self, now: Instant) {
        if self.orders.0.is_empty() {
            return;
        }
        for order in std::mem::take(&mut self.orders.0) {
            match self.outcome(now, &order) {
                None => self.orders.0.push(order),
                Some(outcome) => self.end_order(order, outcome),
            }
        }
    }

    fn outcome(&mut self, now: Instant, order: &Order) -> Option<Outcome> {
        let (me, to) = (self.config.appliance.id, self.config.appliance_name(order.to));
        let status = side(&mut self.groups, order.group)?.decider.status(now);
        let (owner, epoch) = match status.role {
            Role::Owner { epoch } => (Some(me), epoch),
            Role::HandingOver { .. } | Role::Taking { .. } => (None, status.seen),
            Role::Standby => (status.owner, status.seen),
        };
        if owner == Some(order.to) && epoch > order.epoch {
            return Some(Outcome::Moved(epoch));
        }
        if owner == Some(me) && epoch == order.epoch {
            self.note_order_in_vain(now, order.group, order.given, &order.forgotten);
            let reason = format!("not taken: {to} did not take it over, it stays here");
            return Some(Outcome::NotMoved(ApiError::new(ErrorKind::Refused, reason)));
        }
        let owner = owner.map_or_else(|| "an unknown appliance".to_owned(), |owner| self.config.appliance_name(owner));
        let late =
            || format!("not taken within {} s by {to}: it is at {owner}, whose log may say why", ORDER_MAX.as_secs());
        (now >= order.given + ORDER_MAX).then(|| Outcome::NotMoved(ApiError::new(ErrorKind::Timeout, late())))
    }

    fn end_order(&mut self, order: Order, outcome: Outcome) {
        let group = self.group_name(order.group).to_owned();
        let answer = match outcome {
            Outcome::Moved(epoch) => {
                tracing::info!(group, appliance = %order.to, %epoch, "moved as ordered");
                let names = self.config.vips.iter().filter(|vip| usize::from(vip.group) == order.group);
                let moved = Moved {
                    vips: names.map(|vip| vip.name.clone()).collect(),
                    appliance: order.to.get(),
                    name: self.config.name_of(order.to).map(ToOwned::to_owned),
                    epoch: epoch.0,
                };
                Ok(Response::Done { moved: Some(moved) })
            }
            Outcome::NotMoved(error) => {
                tracing::warn!(group, appliance = %order.to, "{error}");
                Err(error)
            }
        };
        if let Some(token) = order.token {
            self.outputs.push_back(Output::Reply(token, answer));
        }
    }
}

//! The two appliances of a pair: who is what, and what can be done to them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Lab, launch_appliance, no_appliance};
use crate::appliance::{Appliance, Standing};
use crate::error::{LabError, Result};
use crate::gateway::Gateway;
use crate::{topology, wait};

/// Until a fresh pair has an owner and a backup that would resume.
const PAIRING_LIMIT: Duration = Duration::from_secs(20);

/// Places of the two appliances in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Owns the VIP.
    pub owner: usize,
    /// Holds a copy that it would resume from.
    pub backup: usize,
}

impl Lab {
    /// An appliance, by its place in the plan.
    pub fn appliance(&self, place: usize) -> Result<&Appliance> {
        match self.gateways.get(place) {
            Some(Gateway::Vipsec(appliance)) => Ok(appliance),
            _ => Err(no_appliance()),
        }
    }

    /// An appliance's name.
    pub fn appliance_name(&self, place: usize) -> &str {
        self.config.plan.appliances.get(place).map_or("?", |plan| &plan.name)
    }

    /// Waits until one appliance owns the VIP and the other one would resume in its place.
    pub fn await_roles(&self) -> Result<Roles> {
        let mut last = Vec::new();
        let waited = wait::until("an owner, and a backup with a trusted copy", PAIRING_LIMIT, || {
            // A dead one has none.
            let standing = |place| self.appliance(place).and_then(Appliance::standing);
            let known = |place| standing(place).unwrap_or_else(|error| Standing::Other(error.to_string()));
            last = (0..self.gateways.len()).map(known).collect();
            let place = |wanted: Standing| last.iter().position(|standing| *standing == wanted);
            Ok(place(Standing::Owner).zip(place(Standing::Backup)).map(|(owner, backup)| Roles { owner, backup }))
        });
        match waited {
            Err(LabError::Timeout { what, limit }) => {
                Err(LabError::Timeout { what: format!("{what} (they were {last:?})"), limit })
            }
            waited => waited,
        }
    }

    /// The place of the appliance that owns the VIP and answers; a dead or sleeping one isn't asked for long.
    pub fn owner(&self) -> Result<usize> {
        let owns =
            |place: &usize| self.appliance(*place).and_then(Appliance::standing).is_ok_and(|it| it == Standing::Owner);
        wait::until("an owner of the VIP", PAIRING_LIMIT, || Ok((0..self.gateways.len()).find(owns)))
    }

    /// Waits until an appliance says that it is that.
    pub fn await_standing(&self, place: usize, wanted: &Standing) -> Result<()> {
        let what = format!("appliance {} to be {wanted:?}", self.appliance_name(place));
        wait::until_true(&what, PAIRING_LIMIT, || Ok(self.appliance(place)?.standing()? == *wanted))
    }

    /// Waits until an owner says that nobody holds a copy.
    pub fn await_unprotected(&self, place: usize) -> Result<()> {
        let what = format!("appliance {} to be unprotected", self.appliance_name(place));
        wait::until_true(&what, PAIRING_LIMIT, || self.appliance(place)?.is_unprotected())
    }

    /// Waits until one appliance owns a VIP, by its place in the plan, and the other one would resume in its place.
    pub fn await_roles_for(&self, vip: usize) -> Result<Roles> {
        let what = format!("an owner of VIP {vip}, and a backup with a trusted copy");
        wait::until(&what, PAIRING_LIMIT, || {
            let standings: Vec<_> = (0..self.gateways.len())
                .map(|place| self.appliance(place)?.standing_for(vip))
                .collect::<Result<_>>()?;
            let place = |wanted: Standing| standings.iter().position(|standing| *standing == wanted);
            Ok(place(Standing::Owner).zip(place(Standing::Backup)).map(|(owner, backup)| Roles { owner, backup }))
        })
    }

    /// Waits until an appliance says that it is that to a VIP, by its place in the plan.
    pub fn await_standing_for(&self, place: usize, vip: usize, wanted: &Standing) -> Result<()> {
        let what = format!("appliance {} to be {wanted:?} of VIP {vip}", self.appliance_name(place));
        wait::until_true(&what, PAIRING_LIMIT, || Ok(self.appliance(place)?.standing_for(vip)? == *wanted))
    }

    /// What the appliances that answer have dropped, by reason.
    pub fn drops(&self) -> Vec<(&str, BTreeMap<String, u64>)> {
        let drops = |place| Some((self.appliance_name(place), self.appliance(place).ok()?.drops().ok()?));
        (0..self.gateways.len()).filter_map(drops).collect()
    }

    /// Kills an appliance at once.
    pub fn kill_appliance(&self, place: usize) -> Result<()> {
        self.appliance(place)?.kill()
    }

    /// Tells an appliance to end and waits until it has.
    pub fn terminate_appliance(&mut self, place: usize) -> Result<()> {
        match self.gateways.get_mut(place) {
            Some(Gateway::Vipsec(appliance)) => appliance.terminate().map(drop),
            _ => Err(no_appliance()),
        }
    }

    /// The versions of the store link that an appliance is told to speak; `None`: all that it can.
    pub fn release(&self, place: usize) -> Option<&'static str> {
        self.config.releases.get(&place).copied().flatten()
    }

    /// Decides of which release an appliance is when it starts the next time, by what it speaks.
    pub fn set_release(&mut self, place: usize, versions: Option<&'static str>) {
        self.config.releases.insert(place, versions);
    }

    /// Starts an appliance that was killed, with the state that it left on disk, and waits until it answers.
    pub fn restart_appliance(&mut self, place: usize) -> Result<()> {
        // Until the system has taken it away, its control socket is in use.
        if let Some(Gateway::Vipsec(dead)) = self.gateways.get_mut(place) {
            dead.await_end()?;
        }
        let plan = self.config.plan.appliances.get(place).ok_or_else(no_appliance)?;
        let host = self.topology.appliances.get(place).ok_or_else(no_appliance)?;
        let mut appliance = launch_appliance(&self.config, plan, host, &self.run)?;
        appliance.await_answer()?;
        if self.config.plan.local_targets {
            topology::prepare_local_target(host)?;
        }
        *self.gateways.get_mut(place).ok_or_else(no_appliance)? = Gateway::Vipsec(appliance);
        Ok(())
    }
}

//! What a running vipsecd says about itself.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use vipsec_control::api::{Client, ClientError, Counters, Request, Response};
use vipsec_esp::sa::Spi;
use vipsec_trafficgen::tunnel::Numbers;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The vipsecd under test, and what it had counted before.
pub(crate) struct Appliance {
    client: Client,
    numbers: HashMap<u32, Numbers>,
    before: Counters,
}

/// What a vipsecd counted during a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ApplianceReport {
    /// Its counters' growth.
    pub(crate) counters: BTreeMap<String, u64>,
    /// Packets that it dropped, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

impl Appliance {
    pub(crate) fn connect(socket: &Path) -> Result<Self, ClientError> {
        let mut client = Client::connect(socket, ANSWER_LIMIT)?;
        let numbers = match client.call(&Request::Sas)? {
            Response::Sas(sas) => {
                let children = sas.static_children.iter();
                children.map(|sa| (sa.spi_in.0, Numbers { to_appliance: sa.edge, from_appliance: sa.sent })).collect()
            }
            _ => HashMap::new(),
        };
        let before = counters(&mut client)?;
        Ok(Self { client, numbers, before })
    }

    /// How far a child SA was used, by the SPI that the appliance receives.
    pub(crate) fn numbers(&self, spi: Spi) -> Numbers {
        self.numbers.get(&spi.get()).copied().unwrap_or_default()
    }

    /// What was counted since the connection.
    pub(crate) fn report(mut self) -> Result<ApplianceReport, ClientError> {
        let after = counters(&mut self.client)?;
        let growth = |before: &BTreeMap<String, u64>, after: BTreeMap<String, u64>| {
            let grown = after.into_iter().map(|(name, count)| {
                let growth = count.saturating_sub(before.get(&name).copied().unwrap_or(0));
                (name, growth)
            });
            grown.filter(|(_, growth)| *growth > 0).collect()
        };
        Ok(ApplianceReport {
            counters: growth(&self.before.counters, after.counters),
            drops: growth(&self.before.drops, after.drops),
        })
    }
}

fn counters(client: &mut Client) -> Result<Counters, ClientError> {
    match client.call(&Request::Counters)? {
        Response::Counters(counters) => Ok(counters),
        _ => Ok(Counters::default()),
    }
}

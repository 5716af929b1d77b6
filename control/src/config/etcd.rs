//! `[etcd]`: the registry that decides among more than two appliances.

use std::path::Path;
use std::time::Duration;

use super::error::Reason;
use super::model::Etcd;
use super::read::{Section, every};
use super::secret::secret;
use super::tls;
use super::value;

/// Most endpoints.
const ENDPOINTS_MAX: usize = 16;
const HTTP: &str = "http://";
const HTTPS: &str = "https://";
const PREFIX_DEFAULT: &str = "/vipsec";
const LEASE_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(500);

/// Reads `[etcd]`, which may be left out. `folder` is where relative files are.
pub(super) fn etcd(root: &Section, folder: &Path) -> Option<Option<Etcd>> {
    let Some(field) = root.optional("etcd") else { return Some(None) };
    let section = field.table()?;
    let endpoints = section.required("endpoints").map(|field| field.filled_list(ENDPOINTS_MAX));
    let endpoints = endpoints.and_then(|fields| every(fields.iter().map(|field| field.parse(endpoint))));
    let prefix =
        section.optional("prefix").map_or_else(|| Some(PREFIX_DEFAULT.to_owned()), |field| field.parse(prefix));
    let seconds = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
    // etcd grants none shorter than its own election takes.
    let lease = value::duration_of(&section, "lease", LEASE_DEFAULT, seconds(2, 3600));
    let timeout =
        value::duration_of(&section, "timeout", TIMEOUT_DEFAULT, Duration::from_millis(50)..=Duration::from_secs(30));
    let user = section.optional("username").map(|field| field.parse(value::name));
    let password = section.optional("password_file").map(|field| secret(&field, folder, 1));
    let credentials = match (user, password) {
        (None, None) => Some(None),
        (Some(user), Some(password)) => user.zip(password).map(Some),
        (Some(_), None) => {
            section.report("password_file", Reason::Missing);
            None
        }
        (None, Some(_)) => {
            section.report("username", Reason::Missing);
            None
        }
    };
    let tls = tls::tls(&section, folder);
    let is_secured = endpoints.as_ref().map(|endpoints| endpoints.iter().any(|endpoint| endpoint.starts_with(HTTPS)));
    if let (Some(true), Some(None)) = (is_secured, &tls) {
        section.report("ca_file", Reason::Missing);
    }
    if let (Some(Some(_)), Some(plain)) =
        (&tls, endpoints.iter().flatten().find(|endpoint| !endpoint.starts_with(HTTPS)))
    {
        let (value, expected) = (plain.clone(), "an https endpoint, as ca_file asks for");
        section.report("endpoints", Reason::Malformed { value, expected });
    }
    section.finish();
    Some(Some(Etcd {
        endpoints: endpoints?,
        prefix: prefix?,
        lease: lease?,
        timeout: timeout?,
        credentials: credentials?,
        tls: tls?,
    }))
}

/// Where an etcd server answers, without a slash at its end.
fn endpoint(text: &str) -> Result<String, Reason> {
    let scheme = [HTTP, HTTPS].into_iter().find(|scheme| text.starts_with(scheme));
    let host = scheme.and_then(|scheme| text.strip_prefix(scheme)).map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let port = host.and_then(|host| host.rsplit_once(':')).filter(|(name, _)| !name.is_empty());
    let valid = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && host.is_some_and(|host| !host.contains(['/', '?', '#', '@']));
    match scheme.zip(host) {
        Some((scheme, host)) if valid => Ok(format!("{scheme}{host}")),
        _ => Err(Reason::Malformed { value: text.to_owned(), expected: "an endpoint like \"http://10.255.0.9:2379\"" }),
    }
}

/// What all keys begin with, without a slash at its end.
fn prefix(text: &str) -> Result<String, Reason> {
    let trimmed = text.trim_end_matches('/');
    let valid = trimmed.len() <= 255 && trimmed.bytes().all(|byte| byte.is_ascii_graphic());
    if valid && text.starts_with('/') {
        Ok(trimmed.to_owned())
    } else {
        Err(Reason::Malformed { value: text.to_owned(), expected: "a prefix of keys like \"/vipsec\"" })
    }
}

//! `[[policy]]`: which packets between VIPs and remote hosts may pass in the clear (RFC 4301 §4.4.1).

use vipsec_dataplane::api::PolicyAction;

use super::connection::selectors;
use super::error::Reason;
use super::model::Policy;
use super::read::Section;

/// Most `[[policy]]` tables.
pub const POLICIES_MAX: usize = 256;

const ACTIONS: [(&str, PolicyAction); 3] =
    [("bypass", PolicyAction::Bypass), ("discard", PolicyAction::Discard), ("protect", PolicyAction::Protect)];

/// Reads all `[[policy]]` tables.
pub(super) fn policies(root: &Section) -> Vec<Option<Policy>> {
    let read = |section: Section| {
        let action = section.required("action").and_then(|field| field.choice(&ACTIONS));
        let local = section.required("local_ts").and_then(|field| selectors(&field));
        let remote_field = section.required("remote_ts");
        let remote = remote_field.as_ref().and_then(selectors);
        section.finish();
        let (local, remote) = (local?, remote?);
        let (ours, theirs) = (local.first()?.first, remote.first()?.first);
        if ours.is_ipv4() != theirs.is_ipv4() {
            remote_field?.report(Reason::MixedFamilies(ours.to_string(), theirs.to_string()));
            return None;
        }
        Some(Policy { local, remote, action: action? })
    };
    root.tables("policy", POLICIES_MAX).into_iter().map(read).collect()
}

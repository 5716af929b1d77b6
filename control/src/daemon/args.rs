//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;
use vipsec_store::Versions;
use vipsec_takeover::message::{VERSION_NEWEST, VERSION_OLDEST};

/// Everything that this build speaks.
const SPOKEN: Versions = Versions { oldest: VERSION_OLDEST, newest: VERSION_NEWEST };

/// vipsecd: owns virtual IP addresses, ends IPsec tunnels on them, spreads connections over targets.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// The configuration; examples/vipsec.toml shows every key.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration, say what is wrong with it, and end.
    #[arg(long)]
    pub check: bool,
    /// Accept a configuration with a [test] table: child SAs with keys from a file, without IKE.
    #[arg(long)]
    pub test_configuration: bool,
    /// End when every port that reads a capture has come to its end; print the counters as JSON.
    #[arg(long)]
    pub exit_at_end: bool,
    /// Speak only these versions of the store link, such as 1 or 1-2: as another release would, to try an upgrade.
    #[arg(long, hide = true, value_name = "VERSIONS", value_parser = versions, default_value_t = SPOKEN)]
    pub link_versions: Versions,
}

/// Reads a part of what this build speaks.
fn versions(text: &str) -> Result<Versions, String> {
    let (oldest, newest) = text.split_once('-').unwrap_or((text, text));
    match (oldest.parse(), newest.parse()) {
        (Ok(oldest), Ok(newest)) if SPOKEN.oldest <= oldest && oldest <= newest && newest <= SPOKEN.newest => {
            Ok(Versions { oldest, newest })
        }
        _ => Err(format!("this build speaks versions {SPOKEN} of the store link")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_are_spoken_can_be_asked_for() {
        assert_eq!(versions("1"), Ok(Versions { oldest: 1, newest: 1 }));
        assert_eq!(versions(&SPOKEN.to_string()), Ok(SPOKEN));
        for text in ["", "0", "2-1", "1-", "1-9999", "new"] {
            assert!(versions(text).is_err(), "{text}");
        }
    }
}

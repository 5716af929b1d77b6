//! `vipsecd`, the appliance's daemon.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    vipsec_control::daemon::main()
}

//! `vipsecd`, the appliance's daemon.

fn main() -> std::process::ExitCode {
    vipsec_control::daemon::main()
}

//! vipsecd between capture files: no network, no IKE, no privileges. What goes in was recorded from strongSwan or made by scapy,
//! what comes out is judged by scapy and tshark. `conformance/README.md` tells about the cases.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// vipsecd starts, reads some hundred packets and ends: a second or two, more on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn strongswan_session_aes_256_gcm() {
    play("session.py", "strongswan-aes256gcm");
}

#[test]
fn strongswan_session_aes_128_gcm() {
    play("session.py", "strongswan-aes128gcm");
}

#[test]
fn malformed_packets_are_dropped_each_for_its_reason() {
    play("malformed.py", "strongswan-aes256gcm");
}

#[test]
fn a_session_through_the_crypto_device_aesni_gcm() {
    play_by("session.py", "strongswan-aes256gcm", Some("crypto_aesni_gcm0"));
}

#[test]
fn a_session_through_the_crypto_device_aesni_mb() {
    play_by("session.py", "strongswan-aes128gcm", Some("crypto_aesni_mb0"));
}

#[test]
fn malformed_packets_are_dropped_for_the_same_reasons_by_crypto_devices() {
    for device in ["crypto_aesni_gcm0", "crypto_aesni_mb0"] {
        play_by("malformed.py", "strongswan-aes256gcm", Some(device));
    }
}

fn play(script: &str, case: &str) {
    play_by(script, case, None);
}

/// Lets `script` make the inputs of `case`, vipsecd read them, on its core or through a crypto device, and `script` judge what it wrote.
fn play_by(script: &str, case: &str, crypto_device: Option<&str>) {
    let (python, vipsecd) = (python(), vipsecd());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let case = scripts.join(case);
    // After a failure the folder stays, for tshark and a closer look.
    let run = tempfile::Builder::new().prefix("vipsec-pcap-").tempdir().expect("a temporary folder").keep();
    let oracle = |action: &str| {
        let mut oracle = Command::new(python);
        oracle.arg(scripts.join(script)).arg(action).arg(&case).arg(&run);
        let output = oracle.output().expect("python starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} {action}, files in {}:\n{said}", run.display());
        print!("{said}");
    };
    oracle("inputs");
    configure(&scripts, &case, &run, crypto_device);
    let status = run_vipsecd(vipsecd, &run);
    let log = fs::read_to_string(run.join("stderr")).unwrap_or_default();
    assert!(status.success(), "vipsecd: {status}, files in {}:\n{log}", run.display());
    oracle("check");
    if crypto_device.is_some() {
        let counters = fs::read_to_string(run.join("stdout")).expect("its counters");
        let jobs = counters.split_once("\"crypto_jobs\":").and_then(|(_, rest)| rest.split([',', '}']).next());
        let jobs: u64 =
            jobs.and_then(|jobs| jobs.parse().ok()).unwrap_or_else(|| panic!("no crypto_jobs in {counters}"));
        assert!(jobs > 0, "nothing went through the device");
    }
    fs::remove_dir_all(&run).expect("removing the run's folder");
}

fn configure(scripts: &Path, case: &Path, run: &Path, crypto_device: Option<&str>) {
    let template = fs::read_to_string(scripts.join("vipsecd.toml")).expect("the configuration");
    // DPDK processes of one machine are told apart by it.
    let prefix = run.file_name().expect("a name").to_string_lossy();
    let config = template.replace("@FOLDER@", &run.to_string_lossy()).replace("@FILE_PREFIX@", &prefix);
    let config = match crypto_device {
        Some(device) => {
            let config = config.replace("name = \"conformance\"", "name = \"conformance\"\nprocessing = \"lookaside\"");
            format!("{config}\n[crypto_device]\ndevice = \"{device}\"\n")
        }
        None => config,
    };
    fs::write(run.join("vipsecd.toml"), config).expect("writing the configuration");
    // vipsecd takes keys from a file that nobody else may read; git doesn't keep such modes.
    let keys = fs::read(case.join("keys.toml")).expect("the keys");
    let mut private = OpenOptions::new();
    private.write(true).create_new(true).mode(0o600);
    private.open(run.join("keys.toml")).and_then(|mut file| file.write_all(&keys)).expect("writing the keys");
}

fn run_vipsecd(vipsecd: &Path, run: &Path) -> ExitStatus {
    let output = |name| File::create(run.join(name)).expect("a file for output");
    let mut vipsecd = Command::new(vipsecd)
        .arg("--config")
        .arg(run.join("vipsecd.toml"))
        .args(["--test-configuration", "--exit-at-end"])
        .stdin(Stdio::null())
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .spawn()
        .expect("vipsecd starts");
    let begin = Instant::now();
    loop {
        if let Some(status) = vipsecd.try_wait().expect("waiting for vipsecd") {
            return status;
        }
        if begin.elapsed() > RUN_LIMIT {
            vipsecd.kill().and_then(|()| vipsecd.wait()).expect("ending vipsecd");
            let log = fs::read_to_string(run.join("stderr")).unwrap_or_default();
            panic!("vipsecd hasn't ended after {RUN_LIMIT:?}, files in {}:\n{log}", run.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// vipsecd beside this test, built in the same profile. Cargo knows whether there is something to build.
fn vipsecd() -> &'static Path {
    static VIPSECD: OnceLock<PathBuf> = OnceLock::new();
    VIPSECD.get_or_init(|| {
        let test = std::env::current_exe().expect("the own path");
        let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "-p", "vipsec-control", "--bin", "vipsecd"]);
        build.arg("--target-dir").arg(folder.parent().expect("target"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo starts").success(), "cargo can't build vipsecd");
        folder.join("vipsecd")
    })
}

/// A Python that has scapy: the one in the path, or the system's, which Debian's package is made for.
fn python() -> &'static str {
    static PYTHON: OnceLock<&str> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let works = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        assert!(works(Command::new("tshark").arg("--version")), "these tests need tshark (Debian: tshark)");
        let has_scapy = |python: &&str| works(Command::new(python).args(["-c", "import tomllib, scapy.layers.ipsec"]));
        ["python3", "/usr/bin/python3"].into_iter().find(has_scapy).expect(
            "these tests need Python 3.11 or newer with scapy and cryptography (Debian: python3-scapy python3-cryptography)",
        )
    })
}

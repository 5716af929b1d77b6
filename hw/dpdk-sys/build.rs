//! Generates the bindings from the installed libdpdk and compiles the shim for what bindgen can't reach.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The functions that `vipsec-hw` calls. Types follow from their signatures.
const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_strerror",
    "rte_version",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_pktmbuf_pool_create",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_set_mtu",
    "rte_eth_promiscuous_(en|dis)able",
    "rte_eth_allmulticast_(en|dis)able",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_link_get_nowait",
    "rte_eth_stats_get",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_eth_dev_get_sec_ctx",
    "rte_flow_validate",
    "rte_security_capabilities_get",
    "rte_cryptodev_get_dev_id",
    "rte_cryptodev_info_get",
    "rte_cryptodev_configure",
    "rte_cryptodev_queue_pair_setup",
    "rte_cryptodev_start",
    "rte_cryptodev_stop",
    "rte_cryptodev_stats_get",
    "rte_cryptodev_sym_capability_(get|check_aead)",
    "rte_cryptodev_sym_get_private_session_size",
    "rte_cryptodev_sym_session_(pool_create|create|free)",
    "rte_crypto_op_pool_create",
    "shim_.*",
];

/// Enumerations whose values arrive in plain integers.
const TYPES: &[&str] = &["rte_crypto_op_status", "rte_crypto_op_sess_type"];

const CONSTANTS: &[&str] = &["RTE_PKTMBUF_HEADROOM", "RTE_ETH_LINK_UP", "SHIM_.*"];

/// Structs with layouts that bindgen can't express (packed and aligned at once). Nothing here looks inside.
const OPAQUE: &str = "rte_arp_ipv4|rte_arp_hdr|rte_l2tpv2_combined_msg_hdr|rte_gtp_psc_.*";

fn main() {
    println!("cargo:rerun-if-changed=shim.h");
    println!("cargo:rerun-if-changed=shim.c");

    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("libdpdk")
        .expect("libdpdk 22.11 or newer with its pkg-config file (Debian: libdpdk-dev)");
    let cflags = cflags();

    let mut shim = cc::Build::new();
    // Not more: at -O3 gcc vectorizes two neighbouring counters of a mempool's cache, to no gain.
    shim.file("shim.c").warnings(false).opt_level(2);
    // Before DPDK's own flags, which include a header of the system's.
    shim.flag("-D_GNU_SOURCE");
    cflags.iter().for_each(|flag| {
        shim.flag(flag);
    });
    shim.compile("vipsec_dpdk_shim");

    // After the shim, which needs them. Only what we call: the drivers are plugins that the EAL finds by itself.
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in ["rte_cryptodev", "rte_security", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_eal"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_arg("-D_GNU_SOURCE")
        .clang_args(&cflags)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .opaque_type(OPAQUE)
        .derive_debug(false)
        .derive_copy(true)
        .layout_tests(false)
        .generate_comments(false)
        .prepend_enum_name(false);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .expect("bindgen understands DPDK's headers")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

/// libdpdk's compiler flags as they are: `-include rte_config.h` and `-march` matter, and the pkg-config crate keeps neither.
fn cflags() -> Vec<String> {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG");
    let pkg_config = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(pkg_config).args(["--cflags", "libdpdk"]).output().expect("pkg-config runs");
    assert!(output.status.success(), "pkg-config --cflags libdpdk failed");
    String::from_utf8(output.stdout).expect("flags are text").split_whitespace().map(str::to_owned).collect()
}

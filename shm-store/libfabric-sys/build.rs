//! Generates the bindings from the installed libfabric and compiles the shim for its static inlines.

use std::env;
use std::path::PathBuf;

/// What `vipsec-store` calls. Types follow from their signatures.
const FUNCTIONS: &[&str] = &["fi_getinfo", "fi_freeinfo", "fi_fabric", "fi_strerror", "shim_.*"];

/// Capabilities, flags and error numbers, as far as they are plain macros or enums.
const CONSTANTS: &[&str] = &["FI_[A-Z0-9_]+"];
const TYPES: &[&str] = &["fi_eq_cm_entry", "fi_cq_entry", "fi_mr_mode", "fi_wait_obj"];

fn main() {
    println!("cargo:rerun-if-changed=shim.h");
    println!("cargo:rerun-if-changed=shim.c");

    cc::Build::new().file("shim.c").compile("vipsec_libfabric_shim");
    // After the shim, which needs it.
    pkg_config::Config::new()
        .atleast_version("1.17")
        .probe("libfabric")
        .expect("libfabric 1.17 or newer with its pkg-config file (Debian: libfabric-dev)");

    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false)
        .prepend_enum_name(false);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .expect("bindgen understands libfabric's headers")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

//! Generates the bindings from the installed header of libIPSec_MB and links the library, where it exists: on x86-64.

use std::env;
use std::path::PathBuf;

const FUNCTIONS: &[&str] = &["alloc_mb_mgr", "free_mb_mgr", "init_mb_mgr_auto", "imb_get_errno", "imb_get_version"];
const TYPES: &[&str] = &["IMB_MGR", "gcm_key_data", "gcm_context_data", "chacha20_poly1305_context_data"];

/// Jobs and key schedules of what isn't called here: only their sizes matter.
const OPAQUE: &str = "IMB_JOB|kasumi_key_sched_s|snow3g_key_schedule_s";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if (target("ARCH").as_str(), target("OS").as_str()) != ("x86_64", "linux") {
        return;
    }
    // The library has no pkg-config file; header and library lie on the compiler's own paths (Debian: libipsec-mb-dev).
    println!("cargo:rustc-link-lib=dylib=IPSec_MB");

    let mut builder = bindgen::Builder::default()
        .header_contents("wrapper.h", "#include <intel-ipsec-mb.h>")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .derive_debug(false)
        .derive_copy(false)
        .layout_tests(false)
        .generate_comments(false)
        .opaque_type(OPAQUE)
        .prepend_enum_name(false);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .expect("bindgen finds intel-ipsec-mb.h (Debian: libipsec-mb-dev)")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

//! Certificates and a key, in files as openssl writes them (PEM).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use vipsec_ike::Secret;

use super::error::Reason;
use super::model::Tls;
use super::read::{Field, Section};
use super::secret::read_private;

/// Most bytes of a file: some dozens of certificates.
const PEM_BYTES_MAX: usize = 64 << 10;

/// Reads `ca_file`, `certificate_file` and `key_file`; without the first there is no TLS.
pub(super) fn tls(section: &Section, folder: &Path) -> Option<Option<Tls>> {
    let ca = section.optional("ca_file").map(|field| certificates(&field, folder));
    let certificate = section.optional("certificate_file").map(|field| certificates(&field, folder));
    let key = section.optional("key_file").map(|field| private_key(&field, folder));
    let identity = match (certificate, key) {
        (None, None) => Some(None),
        (Some(certificate), Some(key)) => certificate.zip(key).map(Some),
        (Some(_), None) => return missing(section, "key_file"),
        (None, Some(_)) => return missing(section, "certificate_file"),
    };
    let tls = match ca {
        Some(ca) => Tls { ca: ca?, identity: identity? },
        None if identity?.is_some() => return missing(section, "ca_file"),
        None => return Some(None),
    };
    // Together, too: the key is the certificate's.
    match check(&tls) {
        Ok(_) => Some(Some(tls)),
        Err(error) => {
            let key = if matches!(error, rustls::Error::InconsistentKeys(_)) { "key_file" } else { "ca_file" };
            section.report(key, Reason::CertificateUnusable { cause: error.to_string() });
            None
        }
    }
}

fn missing(section: &Section, key: &'static str) -> Option<Option<Tls>> {
    section.report(key, Reason::Missing);
    None
}

/// What TLS makes of it.
fn check(tls: &Tls) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca).flatten() {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let Some((certificate, key)) = &tls.identity else { return Ok(config.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|error| rustls::Error::General(error.to_string()))?;
    config.with_client_auth_cert(chain, key)
}

/// One certificate at least, and nothing that can't be read as one.
fn certificates(field: &Field, folder: &Path) -> Option<Vec<u8>> {
    field.parse(|file| {
        let path = folder.join(file);
        let unusable = |cause: String| Reason::CertificateUnusable { cause: format!("{}: {cause}", path.display()) };
        let pem = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        if pem.len() > PEM_BYTES_MAX {
            return Err(unusable(format!("larger than {PEM_BYTES_MAX} bytes")));
        }
        let read = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        match read {
            Ok(certificates) if certificates.is_empty() => Err(unusable("no certificate".to_owned())),
            Ok(_) => Ok(pem),
            Err(error) => Err(unusable(error.to_string())),
        }
    })
}

/// A key that nobody else may read.
fn private_key(field: &Field, folder: &Path) -> Option<Secret> {
    field.parse(|file| {
        let path = folder.join(file);
        let mut pem = read_private(&path, PEM_BYTES_MAX)?;
        // What is wrong with it is not told: that might show it.
        if PrivateKeyDer::from_pem_slice(&pem).is_err() {
            return Err(Reason::CertificateUnusable { cause: format!("{}: no private key", path.display()) });
        }
        Ok(Secret::new(std::mem::take(&mut pem)))
    })
}

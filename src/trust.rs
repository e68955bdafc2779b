//! Which certificates of a bundle can be trust anchors.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The certificates of a PEM bundle that can be trust anchors; bundles copied from a system hold others now and then.
///
/// # Errors
/// It is no PEM, or it holds none.
pub fn trust_anchors(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| "it is not PEM")?;
    let usable = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    let anchors: Vec<_> = certificates.into_iter().filter(usable).collect();
    if anchors.is_empty() { Err("it holds no CA certificate") } else { Ok(anchors) }
}

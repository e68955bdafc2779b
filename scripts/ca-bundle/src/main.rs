//! Prints the certificate authorities that Mozilla trusts for TLS servers, in PEM.

use std::io::Write;

use base64::prelude::{BASE64_STANDARD, Engine};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        writeln!(out, "-----BEGIN CERTIFICATE-----")?;
        // RFC 7468, section 2: lines of 64 characters.
        for line in BASE64_STANDARD.encode(certificate).as_bytes().chunks(64) {
            out.write_all(line)?;
            writeln!(out)?;
        }
        writeln!(out, "-----END CERTIFICATE-----")?;
    }
    out.flush()
}

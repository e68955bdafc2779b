//! `credentialsfetcher.proto` -> the Rust code in the folder that is named: the messages, and the server's side of the
//! service. `scripts/proto` calls it.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: gmsa-sidecar-proto FOLDER")?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["credentialsfetcher.proto"], [here])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .skip_debug(SECRET)
        .out_dir(folder)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Messages that hold passwords or keys: they have no form that could be logged.
const SECRET: [&str; 4] = [
    "credentialsfetcher.CreateNonDomainJoinedKerberosLeaseRequest",
    "credentialsfetcher.RenewNonDomainJoinedKerberosLeaseRequest",
    "credentialsfetcher.KerberosArnLeaseRequest",
    "credentialsfetcher.RenewKerberosArnLeaseRequest",
];

//! The `gmsa-sidecar` command.

fn main() {}

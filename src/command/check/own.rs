//! What is decided inside the container: the configuration, the volume, the listen address.

use std::time::Duration;

use super::{Checks, passed};
use crate::command::health;
use crate::config::UnknownVariable;
use crate::fault::{Code, Fault};
use crate::serve::readiness;
use crate::text::count;
use crate::volume::Volume;

impl Checks<'_, '_> {
    /// Returns whether the configuration can be used as it is.
    pub(super) async fn configuration(&mut self, fault: Option<Fault>, unknown: &[UnknownVariable]) -> bool {
        let specs = match &self.config.cred_specs {
            Some(specs) => format!("GMSA_CREDENTIAL_SPECS names {}", count(specs.len(), "CredSpec")),
            None => "the ECS task is asked for its CredSpecs".to_owned(),
        };
        let usable = fault.is_none();
        self.configuration_is(fault, unknown, specs).await;
        usable
    }

    /// Its fault, or what was seen of it; and the variables that mean nothing.
    pub(super) async fn configuration_is(&mut self, fault: Option<Fault>, unknown: &[UnknownVariable], seen: String) {
        let read = async { fault.map_or_else(|| passed((), seen), Err) };
        self.step("configuration", "", read).await;
        for UnknownVariable { variable, nearest } in unknown {
            let what = format!("the variable {variable} is not a setting of gmsa-sidecar and has no effect");
            let next = format!("rename {variable} to {nearest} if that is what it is for; else remove it");
            let fault = Fault::new(Code::ConfigInvalid, what).with_next(next);
            self.warn("configuration", variable, fault, Duration::ZERO);
        }
    }

    pub(super) async fn volume(&mut self) {
        let (path, owner, mode) = (self.config.dir.clone(), self.config.owner, self.config.mode);
        let subject = path.display().to_string();
        let inspect = async {
            // It may hang, where the volume is on a network.
            let seen = tokio::task::spawn_blocking(move || Volume::inspect(&path, owner, mode)).await;
            let seen =
                seen.map_err(|error| Fault::new(Code::InternalBug, "looking at it failed").caused_by(&error))??;
            let given = owner.map_or_else(|| "the sidecar's own user".to_owned(), |owner| format!("owner {owner}"));
            let seen = format!(
                "folder of {} with mode {}, {} MiB free; files get {given} and mode {mode}",
                seen.owner,
                seen.mode,
                seen.free >> 20
            );
            passed((), seen)
        };
        self.step("volume", &subject, inspect).await;
    }

    /// Whether `run` could listen; where it runs already, that is as good.
    pub(super) async fn listen(&mut self) {
        let address = self.config.listen;
        let listen = async {
            match readiness::bind(address) {
                Ok(_let_go) => passed((), "the address is free"),
                Err(_) if health::is_ours(address).await => passed((), "a gmsa-sidecar listens there already"),
                Err(fault) => Err(fault),
            }
        };
        self.step("listen", &address.to_string(), listen).await;
    }
}

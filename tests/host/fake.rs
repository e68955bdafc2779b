// A keeper without a directory: what it does is decided by the names of accounts and by the password. It is part of the
// daemon's unit tests and of `tests/host`, each of which names the types.

/// Counts what a real keeper would ask of the directory.
#[derive(Default)]
struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<Place, Kept>,
    logins: usize,
    resumed: Vec<(Place, Option<Login>)>,
    removed: usize,
}

struct Kept {
    duty: Duty,
    need: Need,
    expires_at: Option<SystemTime>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn log_in(&self, login: &Login) -> Result<(), Fault> {
        self.state().logins += 1;
        match login {
            Login::Given(given) if given.password.starts_with("wrong") => {
                Err(Fault::new(Code::TicketLoginRefused, "the KDC refused the login").because("PREAUTH_FAILED"))
            }
            _ => Ok(()),
        }
    }
}

/// What an account's name makes of a call.
async fn fate(account: &str) -> Result<(), Fault> {
    match account.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "Hang" => std::future::pending().await,
        "Slow" => tokio::time::sleep(Duration::from_secs(1)).await,
        "Down" => return Err(Fault::new(Code::DcUnreachable, "no domain controller answers")),
        "Nobody" => return Err(Fault::new(Code::GmsaNotFound, "there is no gMSA `Nobody`")),
        "Denied" => return Err(Fault::new(Code::GmsaReadDenied, "the login may not read the password")),
        "Held" => return Err(Fault::new(Code::TicketLoginHeld, "the login is held back")),
        _ => {}
    }
    Ok(())
}

impl Keeper for Fake {
    async fn add(&self, duty: Duty, login: Login) -> Result<Got, Fault> {
        self.log_in(&login)?;
        fate(duty.account.as_str()).await?;
        let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(duty.path.join("krb5cc"));
        file.and_then(|mut file| file.write_all(duty.account.as_str().as_bytes())).unwrap();
        let expires_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
        self.state().kept.insert(duty.place.clone(), Kept { duty, need: Need::Nothing, expires_at });
        let user = matches!(login, Login::Secret(..)).then(|| "svc-from-secret".to_owned());
        Ok(Got { user, distinguished_name: Some("CN=x".to_owned()) })
    }

    fn resume(&self, duty: Duty, login: Option<Login>) {
        let mut state = self.state();
        let need = if login.is_none() { Need::Soon } else { Need::Nothing };
        state.resumed.push((duty.place.clone(), login));
        state.kept.insert(duty.place.clone(), Kept { duty, need, expires_at: None });
    }

    fn health(&self, place: &Place) -> Health {
        match self.state().kept.get(place) {
            Some(kept) => Health { need: kept.need, expires_at: kept.expires_at },
            None => Health { need: Need::Now, expires_at: None },
        }
    }

    fn fault(&self, _: &Place) -> Option<Fault> {
        None
    }

    async fn renew(&self, places: Vec<Place>, login: Login) -> Vec<(Place, Result<Got, Fault>)> {
        let logged_in = self.log_in(&login);
        let renewed = places.into_iter().map(async |place| {
            let account = self.state().kept.get(&place).map(|kept| kept.duty.account.to_string());
            let done = match &logged_in {
                Ok(()) => fate(&account.unwrap_or_default()).await,
                Err(fault) => Err(fault.clone()),
            };
            if let (Ok(()), Some(kept)) = (&done, self.state().kept.get_mut(&place)) {
                kept.need = Need::Nothing;
            }
            (place, done.map(|()| Got::default()))
        });
        futures_util::future::join_all(renewed).await
    }

    async fn remove(&self, place: &Place) {
        let mut state = self.state();
        state.kept.remove(place);
        state.removed += 1;
    }

    async fn cred_spec(&self, arn: &str, _: &AwsKeys) -> Result<Vec<u8>, Fault> {
        match arn.rsplit('/').next().and_then(|key| key.strip_suffix(".json")) {
            Some(account) => Ok(sample(account, account).into_bytes()),
            None => Err(Fault::new(Code::CredSpecNotFound, "there is no such object")),
        }
    }
}

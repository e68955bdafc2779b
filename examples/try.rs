#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout, clippy::panic, missing_docs)]
use gmsa_sidecar::*;
use zeroize::Zeroizing;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let domain: name::Domain = "example.com".parse().unwrap();
    let account: name::Account = a[3].parse().unwrap();
    let loc = dc::Locator::new(&[], Default::default()).unwrap();
    let hosts = loc.locate(&domain).await.unwrap();
    println!("{hosts:?}");
    let host = hosts[0].clone();
    let ad = loc.addresses(&host).await.unwrap();
    println!("{ad:?}");
    let t0 = std::time::Instant::now();
    let (mut kdc, st) =
        tokio::try_join!(dc::KdcConnection::open(host.clone(), ad.clone()), dc::dial(&host, &ad, 389)).unwrap();
    let login = kerberos::login_principal(&a[1], &domain);
    let svc = kerberos::ldap_service(&host, &domain);
    let r = kerberos::authenticate(
        &mut kdc,
        &login,
        &svc,
        kerberos::Proof::Password(kerberos::Password::new(Zeroizing::new(a[2].clone()))),
    )
    .await;
    let (t, _k) = match r {
        Ok(x) => x,
        Err(e) => {
            println!("{}", e.of_login(&login, &host));
            return;
        }
    };
    println!("login {:?}", t0.elapsed());
    let mut c = match gmsa::bind(st, &t.into_ldap_ticket(), &host, &login.to_string()).await {
        Ok(c) => c,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!("bind {:?}", t0.elapsed());
    let g = match gmsa::Gmsa::read(&mut c, &domain, &account, &login.to_string()).await {
        Ok(c) => c,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!("read {:?} {} {:?} q={:?}", t0.elapsed(), g.sam_account_name, g.kvno, g.password.query_interval);
    let me = kerberos::gmsa_principal(&g.sam_account_name, &domain);
    let r = kerberos::authenticate(
        &mut kdc,
        &me,
        &kerberos::ticket_granting_service(&domain),
        kerberos::Proof::SaltedPassword(g.password.current.clone(), kerberos::gmsa_salt(&account, &domain)),
    )
    .await;
    let (t, _k) = match r {
        Ok(x) => x,
        Err(e) => {
            println!("{}", e.of_gmsa(&me, &host));
            return;
        }
    };
    println!("tgt {:?}", t0.elapsed());
    let cc = t.into_gmsa_tgt();
    std::fs::write("/tmp/w/try.cc", cc.ccache()).unwrap();
}

//! What systemd wants to hear: READY, STOPPING, and that the process lives (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Where systemd listens; nowhere without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notify {
    /// `NOTIFY_SOCKET`: a path, or with `@` an abstract name.
    pub socket: Option<String>,
    /// `WATCHDOG_USEC`
    pub watchdog: Option<Duration>,
}

impl Notify {
    /// The service answers.
    pub fn ready(&self) {
        self.send("READY=1\n");
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// Says twice in each period that the process lives. It runs on the thread that serves: if that hangs, so does this.
    pub async fn live(&self) {
        let Some(period) = self.watchdog.filter(|period| !period.is_zero()) else {
            return std::future::pending().await;
        };
        let mut beat = interval(period / 2);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.send("WATCHDOG=1\n");
        }
    }

    /// A datagram that is not taken is lost: there is nobody else to tell.
    fn send(&self, text: &str) {
        let Some(name) = &self.socket else { return };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let sent = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to_addr(text.as_bytes(), &address)
        });
        if let Err(error) = sent {
            tracing::debug!(event = "host.systemd-unreachable", why = %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn systemd_hears_ready_and_two_beats_a_period() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let hear = || {
            let mut buffer = [0; 64];
            systemd.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let notify = Notify { socket: Some(path.display().to_string()), watchdog: Some(Duration::from_secs(30)) };
        notify.ready();
        assert_eq!(hear().as_deref(), Some("READY=1\n"));
        let beats = tokio::time::timeout(Duration::from_secs(31), notify.live()).await;
        assert!(beats.is_err());
        for _ in 0..3 {
            assert_eq!(hear().as_deref(), Some("WATCHDOG=1\n"));
        }
        assert_eq!(hear(), None);
    }

    #[test]
    fn abstract_names_are_reached_too() {
        let name = format!("gmsa-sidecar-test-{}", std::process::id());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify { socket: Some(format!("@{name}")), watchdog: None }.stopping();
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1\n");
        Notify::default().ready();
    }
}

//! What a running sidecar's memory holds. Root may read it, although the process is not dumpable.

use std::fs::{File, read_to_string};
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::{Sidecar, lab};

#[test]
fn no_password_stays_in_memory() {
    let sidecar = Sidecar::of("webapp01.json");
    let running = sidecar.run();
    running.wait_ready();
    let passwords = Passwords::read();
    // What is in memory is found: else the rest would prove nothing.
    assert!(holds(&memory(running.child.id()), b"EXAMPLE.COM"), "the realm must be in memory");
    let own = passwords.found_in(std::process::id());
    assert_eq!(own.len(), passwords.0.len(), "this process holds every one of them, found: {own:?}");

    assert_eq!(passwords.found_in(running.child.id()), [""; 0], "after the first ticket");
    let before = sidecar.json("/leases")["leases"][0]["attempts"].as_u64();
    assert_eq!(sidecar.http("POST", "/refresh").unwrap().0, 202);
    running.wait("another ticket", || sidecar.json("/leases")["leases"][0]["attempts"].as_u64() > before);
    assert_eq!(passwords.found_in(running.child.id()), [""; 0], "after a renewal");
}

/// What a neighbour of the same user, a debugger or a crash could take is what the kernel gives of a process.
#[test]
fn the_process_is_not_dumpable_and_leaves_no_core() {
    let sidecar =
        Sidecar::of("webapp01.json").through(&["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"]);
    chown(sidecar.volume.path(), Some(65532), Some(65532)).unwrap();
    let running = sidecar.run();
    running.wait_ready();
    let proc = format!("/proc/{}", running.child.id());
    // proc(5): the files of a process that is not dumpable belong to root, whoever it runs as.
    let owner = std::fs::metadata(format!("{proc}/environ")).unwrap().uid();
    let user = read_to_string(format!("{proc}/status")).unwrap();
    assert!(user.contains("Uid:\t65532\t65532"), "{user}");
    assert_eq!(owner, 0, "the process is dumpable");
    let limits = read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// Byte strings that must not be there, by name. Of the managed password three parts, since a copy that was half
/// overwritten is one too.
struct Passwords(Vec<(String, Vec<u8>)>);

impl Passwords {
    fn read() -> Self {
        let login = lab("LAB_USER_PW");
        let utf16: Vec<u8> = login.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut all = vec![("login".to_owned(), login.into()), ("login, UTF-16LE".to_owned(), utf16)];

        let filter = format!("(sAMAccountName={}$)", lab("LAB_GMSA"));
        let search = ["-H", lab("LAB_SAMDB"), &filter, "msDS-ManagedPassword"];
        let found = Command::new("ldbsearch").args(search).output().expect("ldbsearch runs");
        // LDIF breaks long lines (RFC 2849).
        let ldif = String::from_utf8(found.stdout).expect("LDIF").replace("\n ", "");
        let blob = ldif.lines().find_map(|line| line.strip_prefix("msDS-ManagedPassword:: ")).expect("a blob");
        let blob = BASE64_STANDARD.decode(blob).expect("base64");
        let octets = &blob[16..16 + 256];
        let units: Vec<u16> = octets.chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        let utf8 = String::from_utf16_lossy(&units).into_bytes();
        for (form, bytes) in [("UTF-16LE", octets), ("UTF-8", &utf8)] {
            for (part, at) in [("begin", 8), ("middle", bytes.len() / 2), ("end", bytes.len() - 40)] {
                all.push((format!("managed, {form}, {part}"), bytes[at..at + 32].to_vec()));
            }
        }
        Self(all)
    }

    fn found_in(&self, process: u32) -> Vec<&str> {
        let memory = memory(process);
        let found = self.0.iter().filter(|(_, bytes)| holds(&memory, bytes));
        found.map(|(name, _)| name.as_str()).collect()
    }
}

fn holds(memory: &[Vec<u8>], wanted: &[u8]) -> bool {
    memory.iter().any(|part| {
        // The quick look at the first byte is for unoptimized builds.
        let starts = part.iter().enumerate().filter(|(_, byte)| **byte == wanted[0]);
        starts.map(|(at, _)| at).any(|at| part[at..].starts_with(wanted))
    })
}

/// A process's writable memory, as far as there is any behind the addresses: the allocator reserves a gigabyte.
fn memory(process: u32) -> Vec<Vec<u8>> {
    let open = |name: &str| File::open(format!("/proc/{process}/{name}")).expect("root may read it");
    let (memory, pages) = (open("mem"), open("pagemap"));
    let maps = read_to_string(format!("/proc/{process}/maps")).expect("root may read it");
    let mut parts = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).expect("an address"));
        let mut entries = vec![0; usize::try_from((end - start) / PAGE * 8).expect("it fits")];
        let length = pages.read_at(&mut entries, start / PAGE * 8).expect("root may read it");
        // Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bit 62 swapped.
        let there: Vec<bool> = entries[..length].chunks_exact(8).map(|entry| entry[7] & 0xc0 != 0).collect();
        let mut at = 0;
        for run in there.chunk_by(|one, next| one == next) {
            if run[0] {
                let mut bytes = vec![0; run.len() * PAGE as usize];
                // Pages may have gone by now.
                let length = memory.read_at(&mut bytes, start + at * PAGE).unwrap_or(0);
                bytes.truncate(length);
                parts.push(bytes);
            }
            at += run.len() as u64;
        }
    }
    parts
}

const PAGE: u64 = 4096;
